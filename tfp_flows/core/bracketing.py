"""Roots of increasing functions of one number, entry by entry."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfp_flows.core.rounding import rounding_unit

Evaluation = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def increasing_root(
    evaluate: Evaluation,
    low: tf.Tensor,
    high: tf.Tensor,
    start: tf.Tensor,
    tolerance: tf.Tensor,
    max_steps: int = 300,
) -> tf.Tensor:
    """Where an increasing function is zero: Newton's method, kept in a bracket.

    Where a step of Newton's leaves the bracket, or is not half as long as the one before the
    last, the bracket is halved in its place, so that the search always comes to an end. An entry
    that is found stays as it is, whatever the others still need. No gradient passes.

    Args:
      evaluate: entries -> `(value, slope)` of the function, elementwise.
      low, high: where the function is not above, and not below, zero.
      start: where to begin, in between.
      tolerance: values so small are rounding errors. An entry is found where its value is, or
        where the root itself cannot be told more closely.
      max_steps: evaluations at most.

    Raises:
      tf.errors.InvalidArgumentError: an entry is not found within `max_steps` (XLA leaves that
        check out). Where a value is NaN, so is the root.
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
            "a search for a root has not ended after",
            count,
            "steps for",
            tf.math.count_nonzero(~done),
        ],
    )
    return tf.stop_gradient(root)
