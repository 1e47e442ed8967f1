"""Solvers of ordinary differential equations: an adaptive and a fixed-step one, also under XLA.

Why not `tfp.math.ode.DormandPrince` of TFP 0.25: without `max_num_steps` it repeats a step whose
error is not finite forever, and XLA drops the assertion that implements `max_num_steps`; the error
of a step is a mean over the batch, which hides a single hard example; and the adjoint equation has
one absolute tolerance whatever the size of the gradients, which are small in the mean of a large
batch. `tests/test_ode.py` demonstrates each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit
from tfp_flows.core.shapes import like

State = list[tf.Tensor]
Dynamics = Callable[..., State]  # (t, *state) -> the derivatives, shaped as the state

# Dormand and Prince, 1980: stages, the weights of the fifth-order result, and their difference
# from those of the fourth-order one. The last stage is the first one of the next step.
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
    """The state at the end time, and how often the solver evaluated the dynamics."""

    state: State
    evaluations: tf.Tensor


class DormandPrince(NamedTuple):
    """Steps of fifth order, as long as the tolerances allow.

    Every example of a batch meets the tolerances: its error is the root mean square, over the last
    dimension, of `error / (atol + rtol * |value|)`, and the largest error in the batch decides. An
    example whose initial state is not finite is ignored.

    Attributes:
      rtol, atol: relative and absolute tolerance of a step.
      max_steps: the number of steps, rejected ones included, after which to give up.
    """

    rtol: float
    atol: float
    max_steps: int

    def solve(
        self,
        dynamics: Dynamics,
        state: Sequence[tf.Tensor],
        start: float,
        end: float,
        num_controlled: int,
    ) -> Solution:
        """Integrates `d state / dt = dynamics(t, *state)` from `start` to `end`.

        Args:
          dynamics: `(t, *state) -> list` of tensors, shaped as the state.
          state: the values at `start`; the last dimension of the controlled ones is the example.
          start, end: times; either may be the later one.
          num_controlled: how many tensors of the state, from the first on, choose the steps.

        Raises:
          ValueError: if the tolerance is finer than the dtype.
          tf.errors.InvalidArgumentError: if the end is not reached. (XLA has no errors: the
            result is NaN there.)
        """
        dtype = state[0].dtype
        self._check_resolution(dtype)
        start, end = tf.constant(start, dtype), tf.constant(end, dtype)
        span = end - start
        min_step = _resolution(dtype) * tf.maximum(tf.abs(start), tf.abs(end))

        def is_running(n, t, step, *_):
            return (t != end) & (n < self.max_steps) & (tf.abs(step) >= min_step)

        def body(n, t, step, state, derivative):
            is_last = tf.abs(step) >= tf.abs(end - t)
            step = tf.where(is_last, end - t, step)
            new, new_derivative, errors = _dormand_prince(dynamics, t, step, state, derivative)
            error = self._largest_error(errors[:num_controlled], state, new, is_valid)
            accepted = error <= 1.0  # which NaN is not
            factor = tf.clip_by_value(0.9 * tf.maximum(error, 1e-9) ** -0.2, 0.2, 10.0)
            factor = tf.where(tf.math.is_finite(error), factor, 0.2)
            t = tf.where(accepted, tf.where(is_last, end, t + step), t)
            state = _where(accepted, new, state)
            derivative = _where(accepted, new_derivative, derivative)
            return n + 1, t, step * factor, state, derivative

        state = list(state)
        dynamics = _traced_once(dynamics, state)
        derivative = _evaluated(dynamics, start, state)
        is_valid = tf.reduce_all([_is_finite(s) for s in state[:num_controlled]], axis=0)
        initial = (tf.constant(0), start, span / 10, state, derivative)
        n, t, _, state, _ = tf.while_loop(is_running, body, initial)
        is_done = tf.equal(t, end)
        check = tf.debugging.Assert(is_done, self._failure(n, t, start, end))
        with tf.control_dependencies([check]):
            state = [tf.where(is_done, s, tf.constant(np.nan, s.dtype)) for s in state]
        return Solution(state, 1 + 6 * n)

    def _largest_error(
        self, errors: State, old: State, new: State, is_valid: tf.Tensor
    ) -> tf.Tensor:
        """The largest error, relative to the tolerances, of a valid example."""
        largest = tf.zeros([], errors[0].dtype)
        for error, a, b in zip(errors, old, new, strict=False):
            allowed = self.atol + self.rtol * tf.maximum(tf.abs(a), tf.abs(b))
            squares = tf.reduce_mean((error / allowed) ** 2, axis=-1)
            squares = tf.where(is_valid, squares, tf.zeros_like(squares))
            # XLA's maximum may ignore NaN: a sum does not.
            nan_if_any = 0.0 * tf.reduce_sum(squares)
            largest = tf.maximum(largest, tf.reduce_max(squares)) + nan_if_any
        return tf.sqrt(largest)

    def _check_resolution(self, dtype: tf.DType) -> None:
        finest = _resolution(dtype)
        if self.rtol < finest:
            raise ValueError(
                f"rtol={self.rtol:g} is finer than {dtype.name} can resolve: give {finest:.1g} or "
                "more, or compute in float64."
            )

    def _failure(self, n: tf.Tensor, t: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> list:
        return [
            f"The ODE solver did not reach the end time with rtol={self.rtol:g} and "
            f"atol={self.atol:g}, within max_steps={self.max_steps}, or its steps became too "
            "small. Steps taken:",
            n,
            "; from",
            start,
            "to",
            end,
            "it reached",
            t,
            ". Look for values that are not finite; otherwise the vector field is too steep: "
            "loosen the tolerances, raise max_steps, add penalties, or lower the learning rate.",
        ]


class RungeKutta4(NamedTuple):
    """Equal steps of fourth order.

    Attributes:
      num_steps: the number of steps.
    """

    num_steps: int

    def solve(
        self,
        dynamics: Dynamics,
        state: Sequence[tf.Tensor],
        start: float,
        end: float,
        num_controlled: int,
    ) -> Solution:
        """As `DormandPrince.solve`; errors are not estimated, so none is controlled."""
        del num_controlled
        dtype = state[0].dtype
        step = tf.constant((end - start) / self.num_steps, dtype)
        start = tf.constant(start, dtype)

        def body(n, state):
            t = start + step * tf.cast(n, dtype)
            k1 = dynamics(t, *state)
            k2 = dynamics(t + step / 2, *_moved(state, step, [k1], [1 / 2]))
            k3 = dynamics(t + step / 2, *_moved(state, step, [k2], [1 / 2]))
            k4 = dynamics(t + step, *_moved(state, step, [k3], [1.0]))
            return n + 1, _moved(state, step, [k1, k2, k3, k4], [1 / 6, 1 / 3, 1 / 3, 1 / 6])

        _, state = tf.while_loop(
            lambda n, _: n < self.num_steps,
            body,
            (0, list(state)),
            maximum_iterations=self.num_steps,
        )
        return Solution(state, tf.constant(4 * self.num_steps))


def _traced_once(dynamics: Dynamics, state: State) -> Dynamics:
    """All stages of a step call one graph, which halves the start-up time."""
    specs = [tf.TensorSpec(s.shape, s.dtype) for s in (tf.zeros([], state[0].dtype), *state)]
    function = tf.function(dynamics, input_signature=specs, autograph=False)
    return function.get_concrete_function()


def _evaluated(dynamics: Dynamics, t: tf.Tensor, state: State) -> State:
    return [like(d, s) for d, s in zip(dynamics(t, *state), state, strict=True)]


def _dormand_prince(
    dynamics: Dynamics, t: tf.Tensor, step: tf.Tensor, state: State, derivative: State
) -> tuple[State, State, State]:
    """One step: the new state, its derivative, and the estimated errors."""
    stages = [derivative]
    for node, weights in zip(_NODES, _STAGES, strict=True):
        stages.append(dynamics(t + node * step, *_moved(state, step, stages, weights)))
    new = _moved(state, step, stages, _SUM)
    new_derivative = _evaluated(dynamics, t + step, new)
    zeros = [tf.zeros_like(s) for s in state]
    return new, new_derivative, _moved(zeros, step, [*stages, new_derivative], _ERROR)


def _moved(
    state: State, step: tf.Tensor, stages: Sequence[State], weights: Sequence[float]
) -> State:
    """`state + step * sum_i weights_i * stages_i`, for every tensor of the state."""
    moved = []
    for i, value in enumerate(state):
        total = sum(w * k[i] for w, k in zip(weights, stages, strict=True) if w)
        moved.append(like(value + step * total, value))
    return moved


def _where(condition: tf.Tensor, state: State, other: State) -> State:
    return [tf.where(condition, a, b) for a, b in zip(state, other, strict=True)]


def _is_finite(tensor: tf.Tensor) -> tf.Tensor:
    """Which examples are finite."""
    return tf.reduce_all(tf.math.is_finite(tensor), axis=-1)


def _resolution(dtype: tf.DType) -> float:
    """The finest relative tolerance that rounding allows."""
    return 16 * rounding_unit(dtype)
