"""The scalar equation that inverts planar and Sylvester flows, and what keeps it solvable."""

from __future__ import annotations

import math

import tensorflow as tf

from tfp_flows.core.bracketing import increasing_root
from tfp_flows.core.implicit import implicit_inverse
from tfp_flows.core.rounding import rounding_unit

_LEAST = -0.999  # nearer to -1 the inverse would be too steep for float32


def above_minus_one(raw: tf.Tensor) -> tf.Tensor:
    r"""A smooth, increasing map of all numbers to those above -0.999, with 0 at 0.

    $$ m(a) = 0.999 \, (\operatorname{softplus}(a + \log(e - 1)) - 1) $$
    """
    at_zero = tf.constant(math.log(math.e - 1), raw.dtype)
    return -_LEAST * (tf.math.softplus(raw + at_zero) - tf.math.softplus(at_zero))


def slope_at(tanh: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The derivative of `a + weight * tanh(a)`, given the `tanh`."""
    return (1 + weight) - weight * tf.square(tanh)


def tanh_root(value: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The one `a` with `a + weight * tanh(a) = value`, with the implicit gradient.

    Args:
      value: of any shape.
      weight: above -1; broadcasts to the shape of `value`.

    Returns:
      `a`, of the shape of `value`; NaN where an argument is not finite.

    Raises:
      tf.errors.InvalidArgumentError: the search does not converge.

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

    # For |tanh| is at most 1; where it is nearly a, the root is nearly value / (1 + weight).
    reach = tf.abs(weight)
    low, high = value - reach, value + reach
    start = tf.clip_by_value(value / (1 + weight), low, high)
    # The terms of the sum, and so its rounding, are at most as large as this.
    size = tf.minimum(tf.abs(value) / (1 + tf.minimum(weight, 0)), tf.abs(value) + reach)
    eps = rounding_unit(value.dtype)
    return increasing_root(evaluate, low, high, start, 2 * eps * size)
