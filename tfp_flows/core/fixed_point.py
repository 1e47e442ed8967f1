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

    An example whose very first step is not finite, as one that holds NaN, is NaN, and does not
    concern the others.

    Args:
      step: `[..., n] -> [..., n]`, a contraction, of each example by itself.
      start: where to begin.
      tolerance: how far an example may still move in one step, relative to its largest entry.
      max_steps: how many steps to try.
      name: who searches, for the message.
      floor: the least that counts as an example's largest entry.

    Raises:
      tf.errors.InvalidArgumentError: an example still moves after `max_steps`, or its values
        overflow on the way. XLA leaves that check out: such examples are NaN.
    """

    def unsettled(count, value, moved, given_up):
        overflows = tf.math.is_nan(moved) & ~given_up
        return tf.reduce_any((moved > tolerance) & ~given_up) & ~tf.reduce_any(overflows)

    def body(count, value, moved, given_up):
        after = tf.stop_gradient(step(value))
        size = tf.maximum(_largest(after), tf.cast(floor, after.dtype))
        moved = tf.math.divide_no_nan(_largest(after - value), size)
        given_up |= tf.equal(count, 0) & ~tf.math.is_finite(moved)
        return count + 1, after, moved, given_up

    start = tf.stop_gradient(start)
    moved = tf.fill(tf.shape(start)[:-1], tf.constant(np.inf, start.dtype))
    begin = (0, start, moved, tf.zeros_like(moved, tf.bool))
    count, value, moved, given_up = tf.while_loop(
        unsettled, body, begin, maximum_iterations=max_steps
    )
    settled = moved <= tolerance
    message = [
        f"{name}: the fixed-point iteration does not converge. It is not a contraction, or needs "
        f"more than max_steps={max_steps}. Steps taken:",
        count,
        f"; tolerance {tolerance:.3g}, last step (relative, of each example):",
        moved,
    ]
    check = tf.debugging.Assert(tf.reduce_all(settled | given_up), message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.where(settled[..., tf.newaxis], value, tf.constant(np.nan, value.dtype))


def _largest(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(tf.abs(tensor), axis=-1)
