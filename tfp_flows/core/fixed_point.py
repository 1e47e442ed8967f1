"""Fixed points of contractions, by iteration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf


def fixed_point(
    step: Callable[[tf.Tensor], tf.Tensor],
    start: tf.Tensor,
    tolerance: float,
    max_steps: int,
    name: str,
    floor: float = 1.0,
) -> tf.Tensor:
    """Applies `step` until nothing moves any more; no gradient passes.

    Args:
      step: `[..., n] -> [..., n]`, a contraction.
      start: where to begin.
      tolerance: how far an example may still move in one step, relative to its largest entry.
      max_steps: how many steps to try.
      name: who searches, for the message.
      floor: the least that counts as an example's largest entry.

    Raises:
      tf.errors.InvalidArgumentError: an example still moves after `max_steps`, or its values
        overflow. XLA leaves that check out: such examples are NaN, so that they do not look right.
    """

    def unsettled(count, value, moved):
        return ~tf.reduce_all(moved <= tolerance) & ~tf.reduce_any(tf.math.is_nan(moved))

    def body(count, value, moved):
        after = tf.stop_gradient(step(value))
        size = tf.maximum(_largest(after), tf.cast(floor, after.dtype))
        return count + 1, after, tf.math.divide_no_nan(_largest(after - value), size)

    start = tf.stop_gradient(start)
    begin = (0, start, tf.fill(tf.shape(start)[:-1], tf.constant(np.inf, start.dtype)))
    count, value, moved = tf.while_loop(unsettled, body, begin, maximum_iterations=max_steps)
    settled = moved <= tolerance
    message = [
        f"{name}: the fixed-point iteration does not converge. It is not a contraction, or needs "
        f"more than max_steps={max_steps}. Steps taken:",
        count,
        f"; tolerance {tolerance:.3g}, last step (relative, of each example):",
        moved,
    ]
    check = tf.debugging.Assert(tf.reduce_all(settled), message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.where(settled[..., tf.newaxis], value, tf.constant(np.nan, value.dtype))


def _largest(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(tf.abs(tensor), axis=-1)
