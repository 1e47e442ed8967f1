"""Roots of increasing scalar functions, elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit
from tfp_flows.solvers.implicit import implicit_inverse

Evaluation = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def increasing_root(
    evaluate: Evaluation,
    low: tf.Tensor,
    high: tf.Tensor,
    start: tf.Tensor,
    tolerance: tf.Tensor,
    max_steps: int = 300,
) -> tf.Tensor:
    """The zero of an increasing function, elementwise: Newton's method within a bracket.

    A Newton step that leaves the bracket, or is longer than half the step before the last, is
    replaced by a bisection, so the search always ends. An entry that is found stays as it is while
    the search goes on for others. No gradient passes. Where a value is NaN, so is the root.

    Args:
      evaluate: entries -> `(value, slope)` of the function, elementwise.
      low, high: the bracket: the function is at most 0 at `low`, and at least 0 at `high`.
      start: the initial value, within the bracket.
      tolerance: the rounding error of values. An entry is found where its value is that small, or
        where the root is known to its last digits.
      max_steps: maximal number of evaluations.

    Raises:
      tf.errors.InvalidArgumentError: if an entry is not found within `max_steps`. (XLA has no
        errors.)
    """
    eps = rounding_unit(start.dtype)
    low, high, start = (tf.stop_gradient(t) for t in (low, high, start))

    def step(count, root, low, high, last, before, done):
        value, slope = evaluate(root)
        found = (tf.abs(value) <= tolerance) | tf.math.is_nan(value)
        low = tf.where(value <= 0.0, root, low)
        high = tf.where(value >= 0.0, root, high)
        newton = -value / slope
        short = 2.0 * tf.abs(newton) <= tf.abs(before)
        inside = (root + newton >= low) & (root + newton <= high)
        move = tf.where(short & inside, newton, 0.5 * low + 0.5 * high - root)
        root = tf.where(done | found, root + 0.0 * value, root + move)
        resolution = 4.0 * eps * tf.abs(root)
        done = done | found | (tf.minimum(tf.abs(move), high - low) <= resolution)
        return count + 1, root, low, high, move, last, done

    width = high - low
    count, root, *_, done = tf.while_loop(
        lambda count, *rest: (count < max_steps) & ~tf.reduce_all(rest[-1]),
        step,
        (0, start, low, high, width, width, tf.zeros_like(start, tf.bool)),
    )
    tf.debugging.Assert(
        tf.reduce_all(done),
        [
            "The search for a root has not ended after",
            count,
            "steps, for this number of entries:",
            tf.math.count_nonzero(~done),
        ],
    )
    return tf.stop_gradient(root)


_MIN = -0.999  # closer to -1 the inverse would be too steep for float32


def above_minus_one(a: tf.Tensor) -> tf.Tensor:
    r"""A smooth, increasing map from the real numbers to those above -0.999, with 0 at 0.

    $$ m(a) = 0.999 \, (\operatorname{softplus}(a + \log(e - 1)) - 1) $$
    """
    at_zero = tf.constant(math.log(math.e - 1), a.dtype)
    return -_MIN * (tf.math.softplus(a + at_zero) - tf.math.softplus(at_zero))


def slope_at(tanh: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The derivative of `a + weight * tanh(a)`, given the `tanh`."""
    return (1 + weight) - weight * tf.square(tanh)


def tanh_root(value: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The solution `a` of `a + weight * tanh(a) = value`, with the implicit gradient.

    Args:
      value: of any shape.
      weight: above -1; broadcasts to the shape of `value`.

    Returns:
      `a`, of the shape of `value`; NaN where an argument is not finite.

    Raises:
      tf.errors.InvalidArgumentError: if the search does not converge.

    Example:
      >>> root = tanh_root(tf.constant(1.0 + 0.5 * np.tanh(1.0), tf.float32), tf.constant(0.5))
      >>> round(float(root), 5)
      1.0
    """
    return implicit_inverse(
        lambda a: a + weight * tf.tanh(a),
        value,
        lambda value: search_tanh_root(value, weight),
        lambda vjp, d: d / vjp(tf.ones_like(d)),
    )


def search_tanh_root(value: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """As `tanh_root`, without a gradient."""
    value, weight = tf.stop_gradient(value), tf.stop_gradient(weight)

    def evaluate(a):
        tanh = tf.tanh(a)
        return a + weight * tanh - value, slope_at(tanh, weight)

    # |tanh| is at most 1. Near 0 it is nearly a, so the root is nearly value / (1 + weight).
    low, high = value - tf.abs(weight), value + tf.abs(weight)
    start = tf.clip_by_value(value / (1 + weight), low, high)
    # A bound of the terms of the sum, and so of its rounding.
    size = tf.abs(value)
    size = tf.minimum(size / (1 + tf.minimum(weight, 0)), size + tf.abs(weight))
    eps = rounding_unit(value.dtype)
    return increasing_root(evaluate, low, high, start, 2 * eps * size)
