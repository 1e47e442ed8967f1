"""Ordinary differential equations: an adaptive solver and one on a fixed grid, both for XLA too.

Why not `tfp.math.ode.DormandPrince` of TFP 0.25: without `max_num_steps` a step whose error is not
finite is repeated without end, and XLA drops the assertion that is behind `max_num_steps`; the
error of a step is a mean over the batch, in which one hard example disappears; and the adjoint
equation is held to one absolute tolerance whatever the size of its gradients, which are small in
the mean of a large batch. `tests/test_ode.py` shows each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit
from tfp_flows.core.shapes import like

State = list[tf.Tensor]
Rates = Callable[..., State]

# Dormand and Prince, 1980: stages, the fifth-order sum, and its distance from the fourth-order
# one. The last stage is the first one of the next step.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_SUM = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class Solution(NamedTuple):
    """Where a solver arrived, and after how many evaluations of the rates."""

    state: State
    evaluations: tf.Tensor


class Adaptive(NamedTuple):
    """Dormand-Prince steps of fifth order, as long as the tolerances let them be.

    Every example of a batch is held to them: the error of one is the root mean square, over the
    last dimension, of `error / (atol + rtol * |value|)`, and the worst one counts. An example whose
    state is not finite at the start has no say.

    Attributes:
      rtol, atol: relative and absolute tolerance of a step.
      max_steps: the steps, rejected ones included, after which to give up.
    """

    rtol: float
    atol: float
    max_steps: int

    def solve(
        self, rates: Rates, state: Sequence[tf.Tensor], start: float, end: float, controlled: int
    ) -> Solution:
        """Integrates `d state / dt = rates(t, *state)` from `start` to `end`.

        Args:
          rates: `(t, *state) -> list` of tensors, shaped as the state.
          state: the values at `start`; their last dimension is that of an example.
          start, end: either may be the later one.
          controlled: how many tensors of the state, the first ones, choose the steps.

        Raises:
          ValueError: the tolerance is finer than the dtype.
          tf.errors.InvalidArgumentError: it does not arrive. XLA has no errors: NaN there.
        """
        dtype = state[0].dtype
        self._check_resolution(dtype)
        start, end = tf.constant(start, dtype), tf.constant(end, dtype)
        span = end - start
        least = _resolution(dtype) * tf.maximum(tf.abs(start), tf.abs(end))

        def goes_on(n, t, step, *_):
            return (t != end) & (n < self.max_steps) & (tf.abs(step) >= least)

        def body(n, t, step, state, rate):
            is_last = tf.abs(step) >= tf.abs(end - t)
            step = tf.where(is_last, end - t, step)
            new, new_rate, errors = _dormand_prince(rates, t, step, state, rate)
            error = self._worst(errors, state, new, controlled, is_sound)
            accepted = error <= 1.0  # which NaN is not
            factor = tf.clip_by_value(0.9 * tf.maximum(error, 1e-9) ** -0.2, 0.2, 10.0)
            factor = tf.where(tf.math.is_finite(error), factor, 0.2)
            t = tf.where(accepted, tf.where(is_last, end, t + step), t)
            state = [tf.where(accepted, a, b) for a, b in zip(new, state, strict=True)]
            rate = [tf.where(accepted, a, b) for a, b in zip(new_rate, rate, strict=True)]
            return n + 1, t, step * factor, state, rate

        state = list(state)
        rates = _traced_once(rates, state)
        first = [like(r, s) for r, s in zip(rates(start, *state), state, strict=True)]
        is_sound = tf.reduce_all([_finite(s) for s in state[:controlled]], axis=0)
        begin = (tf.constant(0), start, span / 10, state, first)
        n, t, _, state, _ = tf.while_loop(goes_on, body, begin)
        arrived = tf.equal(t, end)
        check = tf.debugging.Assert(arrived, self._complaint(n, t, start, end))
        with tf.control_dependencies([check]):
            state = [tf.where(arrived, s, tf.constant(np.nan, s.dtype)) for s in state]
        return Solution(state, 1 + 6 * n)

    def _worst(self, errors, old, new, controlled: int, is_sound: tf.Tensor) -> tf.Tensor:
        """The largest error of a sound example, in the tensors that choose the steps."""
        worst = tf.zeros([], errors[0].dtype)
        for error, a, b in list(zip(errors, old, new, strict=True))[:controlled]:
            allowed = self.atol + self.rtol * tf.maximum(tf.abs(a), tf.abs(b))
            squares = tf.reduce_mean((error / allowed) ** 2, axis=-1)
            squares = tf.where(is_sound, squares, tf.zeros_like(squares))
            # XLA's maximum may pass over NaN: a sum does not.
            poison = 0.0 * tf.reduce_sum(squares)
            worst = tf.maximum(worst, tf.reduce_max(squares)) + poison
        return tf.sqrt(worst)

    def _check_resolution(self, dtype: tf.DType) -> None:
        finest = _resolution(dtype)
        if self.rtol < finest:
            raise ValueError(
                f"rtol={self.rtol:g} is finer than {dtype.name} can resolve: give {finest:.1g} or "
                "more, or compute in float64."
            )

    def _complaint(self, n, t, start, end) -> list:
        return [
            f"The ODE solver did not arrive, with rtol={self.rtol:g} and atol={self.atol:g}, "
            f"within max_steps={self.max_steps}, or its steps became too small. Steps taken:",
            n,
            "of the way from",
            start,
            "to",
            end,
            "it reached",
            t,
            "Look for values that are not finite; else the drift has become too steep: loosen the "
            "tolerances, raise max_steps, add penalties, or lower the learning rate.",
        ]


class Fixed(NamedTuple):
    """A set number of equal Runge-Kutta steps of fourth order.

    Attributes:
      steps: how many.
    """

    steps: int

    def solve(
        self, rates: Rates, state: Sequence[tf.Tensor], start: float, end: float, controlled: int
    ) -> Solution:
        """As `Adaptive.solve`; no error is known, so nothing is `controlled`."""
        del controlled
        dtype = state[0].dtype
        start, step = tf.constant(start, dtype), tf.constant((end - start) / self.steps, dtype)

        def body(n, state):
            t = start + step * tf.cast(n, dtype)
            k1 = rates(t, *state)
            k2 = rates(t + step / 2, *_moved(state, step, [k1], [1 / 2]))
            k3 = rates(t + step / 2, *_moved(state, step, [k2], [1 / 2]))
            k4 = rates(t + step, *_moved(state, step, [k3], [1.0]))
            return n + 1, _moved(state, step, [k1, k2, k3, k4], [1 / 6, 1 / 3, 1 / 3, 1 / 6])

        _, state = tf.while_loop(
            lambda n, _: n < self.steps, body, (0, list(state)), maximum_iterations=self.steps
        )
        return Solution(state, tf.constant(4 * self.steps))


def _traced_once(rates: Rates, state: Sequence[tf.Tensor]) -> Rates:
    """The stages of a step call one and the same graph, which halves the time to start up."""
    specs = [tf.TensorSpec(s.shape, s.dtype) for s in (tf.zeros([], state[0].dtype), *state)]
    return tf.function(rates, input_signature=specs, autograph=False).get_concrete_function()


def _dormand_prince(rates: Rates, t, step, state: State, rate: State):
    """One step: the new state, its rates, and the estimated errors."""
    stages = [rate]
    for node, weights in zip(_NODES, _STAGES, strict=True):
        stages.append(rates(t + node * step, *_moved(state, step, stages, weights)))
    new = _moved(state, step, stages, _SUM)
    new_rate = [like(r, s) for r, s in zip(rates(t + step, *new), state, strict=True)]
    zeros = [tf.zeros_like(s) for s in state]
    return new, new_rate, _moved(zeros, step, [*stages, new_rate], _ERROR)


def _moved(state: State, step, stages: Sequence[State], weights: Sequence[float]) -> State:
    """`state + step * sum_i weights_i * stages_i`, for every tensor of the state."""
    moved = []
    for place, value in enumerate(state):
        total = sum(w * k[place] for w, k in zip(weights, stages, strict=True) if w)
        moved.append(like(value + step * total, value))
    return moved


def _finite(tensor: tf.Tensor) -> tf.Tensor:
    """Which examples are finite."""
    return tf.reduce_all(tf.math.is_finite(tensor), axis=-1)


def _resolution(dtype: tf.DType) -> float:
    """What is lost in rounding, and a little more."""
    return 16 * rounding_unit(dtype)
