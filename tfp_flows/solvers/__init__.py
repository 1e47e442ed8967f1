"""Solvers: differential equations, roots, fixed points, log-dets, and their gradients."""
