"""Fixed points of contractions and of triangular maps, by iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit


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


Step = Callable[[tf.Tensor], tf.Tensor]

_ULPS = 4.0  # a change that another order of summation can make, in rounding units of an entry
_NOISE = 64.0  # what a whole network's rounding can make, in those of the example's largest entry

# What a step is given. Before their turn, entries may be far too large, and a masked network makes
# NaN of everything where one of its units overflows.
_SAFE, _FINITE, _ALL = range(3)


class Settled(NamedTuple):
    """What an iteration arrived at.

    Attributes:
      value: `[..., d]`; NaN for an example that has not settled.
      is_triangular: `[...]`, False for an example whose passes contradict a triangular step.
    """

    value: tf.Tensor
    is_triangular: tf.Tensor


def triangular_fixed_point(step: Step, start: tf.Tensor) -> Settled:
    """Repeats a triangular `step` until it changes nothing.

    In some order, entry k of `step(value)` depends on the k - 1 entries before it alone, so that d
    passes are exact for d entries, and one more changes nothing but rounding. An example is done
    once a pass changes no entry by more than a few units in its last place; rounding may differ
    from pass to pass, as it does with the batch size inside `tf.vectorized_map`.

    Entries that are not finite, or so large that a network may overflow, are given to `step` as 0
    until the rest of their example has settled, and as they are from then on. So an example with
    NaN or an overflow ends as `step` has it, and does not concern the others.

    Measured against d passes always, without a test (batch 256, CPU time, with and without XLA):
    about equal for 6 entries, 1.2 to 8 times faster for 21, 4 to 26 times for 63.

    Args:
      step: takes and gives tensors of the shape of `start`.
      start: a guess, `[..., d]`.
    """
    eps, passes = rounding_unit(start.dtype), start.shape[-1] + 1

    def given(value, stage):
        limits = tf.constant([math.sqrt(float(start.dtype.max)), np.inf, np.inf], value.dtype)
        limit = tf.gather(limits, stage)[..., tf.newaxis]
        is_given = (tf.abs(value) < limit) | tf.equal(stage, _ALL)[..., tf.newaxis]
        return tf.where(is_given, value, tf.zeros_like(value)), tf.reduce_all(is_given, axis=-1)

    def body(value, running, stage, turn, failed):
        argument, is_whole = given(value, stage)
        new = tf.ensure_shape(step(argument), start.shape)
        # All entries have had their turn in the last pass: what still changes must be rounding.
        is_last = tf.equal(turn, passes - 1)
        size = tf.where(tf.math.is_finite(new), tf.abs(new), 0.0)
        largest = tf.reduce_max(size, axis=-1, keepdims=True)
        noise = tf.where(is_last[..., tf.newaxis], _NOISE * largest, _ULPS * size)
        same = (tf.abs(new - value) <= eps * noise) | tf.equal(new, value) | _both_nan(new, value)
        same = tf.reduce_all(same, axis=-1)
        fails = running & ~same & is_last
        moves_on = running & same & ~is_whole
        return (
            new,
            running & ~fails & (~same | ~is_whole),
            tf.where(moves_on, stage + 1, stage),
            tf.where(moves_on, 0, turn + 1),
            failed | fails,
        )

    def each(value):
        return tf.ensure_shape(tf.fill(tf.shape(start)[:-1], value), start.shape[:-1])

    value, _, stage, _, failed = tf.while_loop(
        lambda _, running, *rest: tf.reduce_any(running),
        body,
        (start, each(True), each(_SAFE), each(0), each(False)),
        maximum_iterations=3 * passes,
    )
    value = tf.where(failed[..., tf.newaxis], tf.constant(np.nan, value.dtype), value)
    return Settled(value, ~(failed & tf.equal(stage, _SAFE)))


def _both_nan(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.math.is_nan(a) & tf.math.is_nan(b)
