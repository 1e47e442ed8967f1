"""Continuous flows: a neural ordinary differential equation as a bijector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.evaluation import add_penalty, current, noise_seed, settings_changed
from tfp_flows.core.shapes import like, spread
from tfp_flows.core.tracing import InGraph
from tfp_flows.solvers.ode import DormandPrince, RungeKutta4
from tfp_flows.solvers.trajectory import AugmentedDynamics, Trajectory, trace_noise

_CHOICES = {
    "solver": ("adaptive", "fixed"),
    "trace": ("exact", "hutchinson"),
    "noise": ("rademacher", "gaussian"),
}


class ContinuousFlow(FlowBijector):
    r"""Moves points along a learnt vector field, from `initial_time` to `final_time`.

    $$ \frac{dz}{dt} = f(z, t), \qquad y = z(t_1) \text{ for } x = z(t_0), \qquad
       \log|\det J| = \int_{t_0}^{t_1} \operatorname{tr} \frac{\partial f}{\partial z}\, dt $$

    The inverse integrates the same equation from `final_time` back to `initial_time`
    (`tfb.FFJORD` integrates from 0, which is wrong for any other start). Both directions have the
    same cost.

    With `solver="adaptive"` (Dormand-Prince) steps are as long as the tolerances allow, and
    gradients solve the adjoint equation backwards with the same tolerances, so only the end of the
    trajectory is kept in memory. With `solver="fixed"` (Runge-Kutta of fourth order) the number of
    steps is static, which suits XLA; gradients are exact for these steps, memory grows with
    `num_steps`, and the inverse is accurate to the error of the steps.

    With `trace="hutchinson"` the log-det is an estimate, $ \epsilon^\top J \epsilon $, whose cost
    does not grow with the event. Its noise is drawn once per solve, from `seed` and the shape of
    the batch, so that both directions and repeated calls agree. Under Keras `fit` every step draws
    new noise, so that the network cannot fit one draw. `bijector.trace = "exact"` may be set at any
    time, also after training or loading: a `FlowModel` follows at its next call, whereas a
    `tf.function` of your own must be traced again.

    Source: Neural Ordinary Differential Equations, arXiv 1806.07366; FFJORD, arXiv 1810.01367; the
    penalties: How to train your neural ODE, arXiv 2002.02798.

    Args:
      vector_field: the network `f`, from the state, `[n, *event]`, and as a second argument (the
        second input of a Keras model) the time and the context as one vector, `[n, 1 + k]`, to the
        velocity, `[n, *event]`: `conditioners.vector_field`, or another network of `conditioners`
        made with `context=1 + k`. It must be smooth in the state, and the same at every call: no
        dropout, no batch normalisation.
      event_ndims: rank of an event.
      solver: `"adaptive"` or `"fixed"`.
      num_steps: number of steps of the fixed solver.
      rtol, atol: relative and absolute tolerance of each step of the adaptive solver, for each
        example.
      max_steps: steps after which the adaptive solver gives up.
      trace: `"exact"`, which evaluates the vector field on as many copies of the batch as an event
        has entries, or `"hutchinson"`.
      noise: distribution of Hutchinson's noise, `"rademacher"` or `"gaussian"`.
      seed: of that noise; an integer, 0 or more.
      initial_time: time of the latents.
      final_time: time of the data; it may be the earlier one.
      kinetic_penalty: `fit` adds this times the integral of $ \|f\|^2 $ along the trajectory, the
        mean over the batch; 0.01 makes trajectories straight and cheap to solve.
      jacobian_penalty: `fit` adds this times the integral of $ \|\partial f / \partial z\|_F^2 $
        (its estimate $ \|\epsilon^\top J\|^2 $ with `trace="hutchinson"`).
      name: name of the bijector.

    Raises:
      ValueError: if a setting is out of range; on the first call, if the output of `vector_field`
        has another shape than the state, or if it updates variables.
      tf.errors.InvalidArgumentError: on a call, if the adaptive solver does not reach the end time.
        (XLA has no errors: the result is NaN there.)

    Example:
      >>> flow = ContinuousFlow(lambda x, time: time * x)  # x(1) = x(0) exp(1/2)
      >>> y, log_det = flow.forward_and_log_det(tf.constant([1.0, -2.0]))
      >>> np.round(y, 3), round(float(log_det), 3)
      (array([ 1.649, -3.297], dtype=float32), 1.0)
    """

    _TF_MODULE_IGNORED_PROPERTIES = FlowBijector._TF_MODULE_IGNORED_PROPERTIES | {
        "_integrate",
        "_count",
    }

    def __init__(
        self,
        vector_field: Any,
        event_ndims: int = 1,
        solver: str = "adaptive",
        num_steps: int = 20,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_steps: int = 1000,
        trace: str = "exact",
        noise: str = "rademacher",
        seed: int = 0,
        initial_time: float = 0.0,
        final_time: float = 1.0,
        kinetic_penalty: float = 0.0,
        jacobian_penalty: float = 0.0,
        name: str = "continuous_flow",
    ):
        parameters = dict(locals())
        for setting in _CHOICES:
            _check_choice(setting, parameters[setting])
        _check_ranges(parameters)
        super().__init__(forward_min_event_ndims=int(event_ndims), parameters=parameters, name=name)
        self._network = Network(vector_field, name=f"{name}_vector_field")
        if self._network.is_random:
            raise ValueError(f"The vector field of {name} has random layers: remove them.")
        if solver == "adaptive":
            solver = DormandPrince(float(rtol), float(atol), int(max_steps))
        else:
            solver = RungeKutta4(int(num_steps))
        self._solver = self._no_dependency(solver)
        self._times = (float(initial_time), float(final_time))
        self._trace = trace
        self._noise = noise
        self._seed = int(seed)
        self._penalties = (float(kinetic_penalty), float(jacobian_penalty))
        self._integrate = self._no_dependency(InGraph(self._end_and_log_det))
        self._count = self._no_dependency(InGraph(self._num_evaluations))

    @property
    def vector_field(self) -> Any:
        """The network, as given."""
        return self._network.net

    @property
    def trace(self) -> str:
        """How the log-det is computed, `"exact"` or `"hutchinson"`; may be set at any time."""
        return self._trace

    @trace.setter
    def trace(self, trace: str) -> None:
        _check_choice("trace", trace)
        self._trace = trace
        self._parameters["trace"] = trace  # a copy, or a file, has it too
        settings_changed()

    def evaluations(self, value: Any, context: Any = None, direction: str = "inverse") -> tf.Tensor:
        """How often a solve evaluates the vector field (on the whole batch at once): a scalar.

        Args:
          value: data `[..., *event]` for `"inverse"`, the direction of `log_prob`; latents for
            `"forward"`, that of `sample`.
          context: `[..., k]`, for a vector field that takes one.
          direction: `"inverse"` or `"forward"`.

        Raises:
          ValueError: if the direction is another one.
        """
        if direction not in ("forward", "inverse"):
            raise ValueError(f"direction must be 'forward' or 'inverse', got {direction!r}.")
        value = tf.convert_to_tensor(value)
        self._check_argument(value, self.forward_min_event_ndims, direction)
        context = self._checked_context(context, value.dtype)
        forward = direction == "forward"
        return self._count(value, context, self.forward_min_event_ndims, forward)

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        return self._integrate(x, context, self.forward_min_event_ndims, forward=True)

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        return self._integrate(y, context, self.forward_min_event_ndims, forward=False)

    def _end_and_log_det(self, value: tf.Tensor, context: Context, forward: bool) -> Pair:
        state, context, trajectory = self._trajectory(value, context, forward)
        end, accumulators = trajectory.integrate(state, context)
        batch_ndims = value.shape.rank - self.forward_min_event_ndims
        batch = tf.shape(value)[:batch_ndims]
        log_det, *penalty = (
            tf.ensure_shape(tf.reshape(a, batch), value.shape[:batch_ndims])
            for a in tf.unstack(accumulators, axis=-1)
        )
        for p in penalty:
            add_penalty(p)
        return like(tf.reshape(end, tf.shape(value)), value), log_det

    def _num_evaluations(self, value: tf.Tensor, context: Context, forward: bool) -> tf.Tensor:
        state, context, trajectory = self._trajectory(value, context, forward)
        return trajectory.solve(state, context).evaluations

    def _trajectory(
        self, value: tf.Tensor, context: Context, forward: bool
    ) -> tuple[tf.Tensor, Context, Trajectory]:
        """The initial state, `[n, size]`, the context, `[n, k]` or None, and what follows."""
        batch_ndims = value.shape.rank - self.forward_min_event_ndims
        event = value.shape[batch_ndims:].as_list()
        if None in event or 0 in event:
            raise ValueError(f"{self.name} needs static event dimensions, got {value.shape}.")
        state = tf.reshape(value, [-1, math.prod(event)])
        if context is not None:
            context = tf.cast(context, value.dtype)
            context = spread(context, tf.shape(value)[:batch_ndims], context.shape[-1:])
        seed = noise_seed(self, None if current().in_training else self._seed)
        noise = trace_noise(state, self._trace, self._noise, seed)
        start, end = self._times if forward else self._times[::-1]
        penalties = None
        if current().collects_penalties and any(self._penalties):
            # An integral over the length of the trajectory is positive backwards in time as well.
            penalties = tuple(math.copysign(w, end - start) for w in self._penalties)
        dynamics = AugmentedDynamics(self._network, event, noise, penalties)
        return state, context, Trajectory(dynamics, self._solver, start, end, self.name)

    def _describe(self) -> str:
        return f"{self._network!r}, {self._parameters['solver']}, {self._trace} trace"


def _check_choice(setting: str, value: Any) -> None:
    if value not in _CHOICES[setting]:
        choices = " or ".join(map(repr, _CHOICES[setting]))
        raise ValueError(f"{setting} must be {choices}, got {value!r}.")


def _check_ranges(given: dict[str, Any]) -> None:
    for name, least in (("event_ndims", 1), ("num_steps", 1), ("max_steps", 1), ("seed", 0)):
        if not isinstance(given[name], int | np.integer) or given[name] < least:
            raise ValueError(f"{name} must be an integer, {least} or more; got {given[name]}.")
    for name in ("rtol", "atol"):
        if not 0 < given[name] < math.inf:
            raise ValueError(f"{name} must be above 0, got {given[name]}.")
    for name in ("kinetic_penalty", "jacobian_penalty"):
        if not 0 <= given[name] < math.inf:
            raise ValueError(f"{name} must be finite and 0 or more, got {given[name]}.")
    start, end = given["initial_time"], given["final_time"]
    if not (math.isfinite(start) and math.isfinite(end)) or start == end:
        raise ValueError(
            f"initial_time and final_time must be finite and differ, got {start} and {end}."
        )
