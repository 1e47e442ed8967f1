"""Solvers: differential equations, roots, fixed points, and their gradients."""
