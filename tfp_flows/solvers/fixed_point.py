"""Fixed points of contractions and of triangular maps, by iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit

Step = Callable[[tf.Tensor], tf.Tensor]

_ULPS = 4.0  # what another order of summation may change, in rounding units of an entry
_NOISE = 64.0  # what rounding in a whole network may change, in units of the largest entry

# Stages of an example in a triangular iteration: which entries `step` sees, the others being 0.
# Entries that are not computed yet may be far too large, and a masked network makes everything NaN
# where one of its units overflows.
_SAFE, _FINITE, _ALL = range(3)


def fixed_point(
    step: Step,
    start: tf.Tensor,
    tolerance: float,
    max_steps: int,
    name: str,
    floor: float = 1.0,
) -> tf.Tensor:
    """Iterates a contraction until no example moves; no gradient passes.

    An example whose first step is not finite, as one that contains NaN, becomes NaN and does not
    affect the others.

    Args:
      step: `[..., n] -> [..., n]`, of each example by itself.
      start: the initial value, `[..., n]`.
      tolerance: how far an example may still move in one step, relative to its largest entry.
      max_steps: how many steps to try.
      name: for error messages.
      floor: lower bound of the largest entry in that ratio.

    Raises:
      tf.errors.InvalidArgumentError: if an example still moves after `max_steps`, or if its values
        overflow on the way. (XLA has no errors: such examples are NaN.)
    """

    def is_running(count, value, moved, is_invalid):
        overflows = tf.math.is_nan(moved) & ~is_invalid
        return tf.reduce_any((moved > tolerance) & ~is_invalid) & ~tf.reduce_any(overflows)

    def body(count, value, moved, is_invalid):
        new = tf.stop_gradient(step(value))
        size = tf.maximum(_largest(new), tf.cast(floor, new.dtype))
        moved = tf.math.divide_no_nan(_largest(new - value), size)
        is_invalid |= tf.equal(count, 0) & ~tf.math.is_finite(moved)
        return count + 1, new, moved, is_invalid

    start = tf.stop_gradient(start)
    moved = tf.fill(tf.shape(start)[:-1], tf.constant(np.inf, start.dtype))
    initial = (0, start, moved, tf.zeros_like(moved, tf.bool))
    count, value, moved, is_invalid = tf.while_loop(
        is_running, body, initial, maximum_iterations=max_steps
    )
    converged = moved <= tolerance
    message = [
        f"{name}: the fixed-point iteration does not converge. It is not a contraction, or needs "
        f"more than max_steps={max_steps}. Steps taken:",
        count,
        f"; tolerance {tolerance:.3g}, last step (relative, of each example):",
        moved,
    ]
    check = tf.debugging.Assert(tf.reduce_all(converged | is_invalid), message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.where(converged[..., tf.newaxis], value, tf.constant(np.nan, value.dtype))


class Settled(NamedTuple):
    """The result of a triangular iteration.

    Attributes:
      value: `[..., d]`; NaN for an example that did not settle.
      is_triangular: `[...]`, False for an example whose passes contradict a triangular step.
    """

    value: tf.Tensor
    is_triangular: tf.Tensor


def triangular_fixed_point(step: Step, start: tf.Tensor) -> Settled:
    """Iterates a triangular `step` until it changes nothing.

    In some order, entry k of `step(value)` depends on the k - 1 entries before it alone, so d
    passes compute d entries exactly, and one more changes nothing but rounding. An example has
    settled once a pass changes no entry by more than a few units in its last place (rounding may
    differ between passes, as it does with the batch size inside `tf.vectorized_map`).

    `step` sees entries that are not finite, or so large that a network may overflow, as 0 until
    the rest of their example has settled, and as they are from then on. So an example with NaN or
    an overflow ends as `step` makes it, and does not affect the others.

    Compared with always d passes (batch 256, CPU time, with and without XLA): about equal for 6
    entries, 1.2 to 8 times faster for 21, 4 to 26 times for 63.

    Args:
      step: `[..., d] -> [..., d]`.
      start: an initial guess, `[..., d]`.
    """
    eps, passes = rounding_unit(start.dtype), start.shape[-1] + 1

    def visible(value, stage):
        limits = tf.constant([math.sqrt(float(start.dtype.max)), np.inf, np.inf], value.dtype)
        limit = tf.gather(limits, stage)[..., tf.newaxis]
        is_visible = (tf.abs(value) < limit) | tf.equal(stage, _ALL)[..., tf.newaxis]
        value = tf.where(is_visible, value, tf.zeros_like(value))
        return value, tf.reduce_all(is_visible, axis=-1)

    def body(value, running, stage, index, failed):
        argument, is_complete = visible(value, stage)
        new = tf.ensure_shape(step(argument), start.shape)
        # By the last pass all entries are computed: what still changes must be rounding.
        is_last = tf.equal(index, passes - 1)
        size = tf.where(tf.math.is_finite(new), tf.abs(new), 0.0)
        largest = tf.reduce_max(size, axis=-1, keepdims=True)
        rounding = tf.where(is_last[..., tf.newaxis], _NOISE * largest, _ULPS * size)
        same = (tf.abs(new - value) <= eps * rounding) | tf.equal(new, value)
        same |= tf.math.is_nan(new) & tf.math.is_nan(value)
        same = tf.reduce_all(same, axis=-1)
        fails = running & ~same & is_last
        next_stage = running & same & ~is_complete
        return (
            new,
            running & ~fails & (~same | ~is_complete),
            tf.where(next_stage, stage + 1, stage),
            tf.where(next_stage, 0, index + 1),
            failed | fails,
        )

    def per_example(value):
        return tf.ensure_shape(tf.fill(tf.shape(start)[:-1], value), start.shape[:-1])

    value, _, stage, _, failed = tf.while_loop(
        lambda _, running, *rest: tf.reduce_any(running),
        body,
        (start, per_example(True), per_example(_SAFE), per_example(0), per_example(False)),
        maximum_iterations=3 * passes,
    )
    value = tf.where(failed[..., tf.newaxis], tf.constant(np.nan, value.dtype), value)
    return Settled(value, ~(failed & tf.equal(stage, _SAFE)))


def _largest(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(tf.abs(tensor), axis=-1)
