"""Continuous flows: a neural ordinary differential equation as a bijector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.evaluation import add_penalty, current, noise_seed, settings_changed
from tfp_flows.core.tracing import InGraph
from tfp_flows.solvers.ode import Adaptive, Fixed
from tfp_flows.solvers.trajectory import Path, Rates, draw_probes

_CHOICES = {
    "solver": ("adaptive", "fixed"),
    "trace": ("exact", "hutchinson"),
    "noise": ("rademacher", "gaussian"),
}


class ContinuousFlow(FlowBijector):
    r"""Moves every point along a velocity field, from `initial_time` to `final_time`.

    $$ \frac{dz}{dt} = f(z, t), \qquad y = z(t_1) \text{ for } x = z(t_0), \qquad
       \log|\det J| = \int_{t_0}^{t_1} \operatorname{tr} \frac{\partial f}{\partial z}\, dt $$

    The inverse runs the same equation from `final_time` back to `initial_time`, whatever they
    are (`tfb.FFJORD` runs it from 0 there, which is wrong for any other start). Both directions
    cost the same.

    With `solver="adaptive"` (Dormand-Prince) steps are as long as the tolerances let them be, and
    gradients come from the adjoint equation, solved backwards to the same tolerances: nothing
    but the end is kept in memory. With `solver="fixed"` (Runge-Kutta of fourth order) the
    number of steps is known, which suits XLA; gradients are exact for these steps, and memory
    grows with them; forward and inverse undo each other as far as the steps are fine enough.

    With `trace="hutchinson"` the log-det is an estimate, $ \epsilon^\top J \epsilon $, whose cost
    does not grow with the event. Its noise is drawn once for a solve, from `seed` and the shape of
    the batch, so that both directions and repeated calls agree. Under Keras `fit` every step
    draws anew, so that the network cannot fit one draw. Set `bijector.trace = "exact"` on the same object at any time, after training or loading too: a `FlowModel` follows at its next
    call. A `tf.function` of your own keeps what it was traced with: make it anew.

    Source: Neural Ordinary Differential Equations, arXiv 1806.07366; FFJORD, arXiv 1810.01367; the
    penalties: How to train your neural ODE, arXiv 2002.02798.

    Args:
      vector_field: the network `f`. It is given the state, `[n, *event]`, and as its second
        argument (the second input of a Keras model) the time and the context as one vector,
        `[n, 1 + k]`; it returns the velocity, `[n, *event]`. See `conditioners.vector_field`;
        networks of `conditioners` made with `context=1 + k` do too. It must be smooth in the state, and
        the same at every call: no dropout, no batch normalisation.
      event_ndims: rank of an event.
      solver: `"adaptive"` or `"fixed"`.
      num_steps: of the fixed solver.
      rtol, atol: relative and absolute tolerance of each step of the adaptive solver, for each
        example.
      max_steps: steps after which the adaptive solver gives up.
      trace: `"exact"`, which evaluates the vector field on as many copies as an event has
        entries, or `"hutchinson"`.
      noise: of Hutchinson's estimate: `"rademacher"` or `"gaussian"`.
      seed: a whole number, of the noise.
      initial_time: time of the latents.
      final_time: time of the data; it may be the earlier one.
      kinetic_penalty: `fit` adds this times the integral of $ \|f\|^2 $ over the path, the mean
        over the batch; 0.01 makes paths straight and cheap to solve.
      jacobian_penalty: `fit` adds this times the integral of $ \|\partial f / \partial z\|_F^2 $
        (its estimate $ \|\epsilon^\top J\|^2 $ with `trace="hutchinson"`).
      name: name of the bijector.

    Raises:
      ValueError: a setting that makes no sense; on the first call, a vector field whose output has
        another shape than its input, or that changes from call to call.
      tf.errors.InvalidArgumentError: the adaptive solver did not arrive; it names the steps and
        the tolerances. (XLA has no errors: results are NaN there.)

    Example:
      >>> flow = ContinuousFlow(lambda x, time: time * x)  # x(1) = x(0) exp(1/2)
      >>> y, log_det = flow.forward_and_log_det(tf.constant([1.0, -2.0]))
      >>> np.round(y, 3), round(float(log_det), 3)
      (array([ 1.649, -3.297], dtype=float32), 1.0)
    """

    _TF_MODULE_IGNORED_PROPERTIES = FlowBijector._TF_MODULE_IGNORED_PROPERTIES | {
        "_evaluate",
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
        _check_numbers(parameters)
        super().__init__(forward_min_event_ndims=int(event_ndims), parameters=parameters, name=name)
        self._network = Network(vector_field, name=f"{name}_vector_field")
        if self._network.is_random:
            raise ValueError(f"The vector field of {name} holds random layers: leave them out.")
        adaptive = solver == "adaptive"
        self._solver = self._no_dependency(
            Adaptive(float(rtol), float(atol), int(max_steps))
            if adaptive
            else Fixed(int(num_steps))
        )
        self._times = (float(initial_time), float(final_time))
        self._trace = trace
        self._noise = noise
        self._seed = int(seed)
        self._weights = (float(kinetic_penalty), float(jacobian_penalty))
        self._evaluate = self._no_dependency(InGraph(self._run))
        self._count = self._no_dependency(InGraph(self._run_and_count))

    @property
    def vector_field(self) -> Any:
        """The network, as it was given."""
        return self._network.net

    @property
    def trace(self) -> str:
        """How log-dets are computed, `"exact"` or `"hutchinson"`; may be set at any time."""
        return self._trace

    @trace.setter
    def trace(self, trace: str) -> None:
        _check_choice("trace", trace)
        self._trace = trace
        self._parameters["trace"] = trace  # a copy, or a file, has it too
        settings_changed()

    def evaluations(self, value, context=None, direction: str = "inverse") -> tf.Tensor:
        """How often a solve evaluates the vector field (the whole batch at once): a scalar.

        Args:
          value: data `[..., *event]` for `"inverse"`, the direction of `log_prob`; latents for
            `"forward"`, that of `sample`.
          context: `[..., k]`, for a vector field that takes one.
          direction: `"inverse"` or `"forward"`.

        Raises:
          ValueError: another direction.
        """
        if direction not in ("forward", "inverse"):
            raise ValueError(f"direction must be 'forward' or 'inverse', got {direction!r}.")
        value = tf.convert_to_tensor(value)
        self._check_argument(value, self.forward_min_event_ndims, direction)
        return self._call(self._count, value, context, direction == "forward", penalised=False)

    def _forward_and_log_det(self, x, context):
        return self._penalised_results(x, context, forward=True)

    def _inverse_and_log_det(self, y, context):
        return self._penalised_results(y, context, forward=False)

    def _penalised_results(self, value, context, forward: bool):
        penalised = current().collects_penalties and any(self._weights)
        out, gains = self._call(self._evaluate, value, context, forward, penalised)
        if penalised:
            add_penalty(gains[..., 1])
        return out, gains[..., 0]

    def _call(self, evaluate: InGraph, value, context, forward: bool, penalised: bool):
        if context is not None:
            context = tf.cast(context, value.dtype)
        ndims, trace = self.forward_min_event_ndims, self._trace
        return evaluate(value, context, ndims, forward, trace=trace, penalised=penalised)

    def _run(self, value, context, forward: bool, trace: str, penalised: bool):
        """The end of the path, `[..., *event]`, and what it gains on the way: `[..., 1 or 2]`.

        That is the log-det, and the penalty if it is wanted.
        """
        state, context, path = self._prepare(value, context, forward, trace, penalised)
        end, gains = path.follow(state, context)
        batch = value.shape[: value.shape.rank - self.forward_min_event_ndims]
        width = gains.shape[-1]
        end = tf.ensure_shape(tf.reshape(end, tf.shape(value)), value.shape)
        gains = tf.reshape(gains, tf.concat([tf.shape(value)[: batch.rank], [width]], 0))
        return end, tf.ensure_shape(gains, [*batch, width])

    def _run_and_count(self, value, context, forward: bool, trace: str, penalised: bool):
        state, context, path = self._prepare(value, context, forward, trace, penalised)
        return path.solve(state, context).evaluations

    def _prepare(self, value, context, forward: bool, trace: str, penalised: bool):
        """The state, `[n, size]`, the context, `[n, k]` or None, and the path from there."""
        ndims = self.forward_min_event_ndims
        event = tuple(value.shape[value.shape.rank - ndims :])
        if None in event or 0 in event:
            raise ValueError(f"{self.name} needs static event dimensions, got {value.shape}.")
        state = tf.reshape(value, [-1, math.prod(event)])
        if context is not None:
            batch = tf.shape(value)[: value.shape.rank - ndims]
            width = context.shape[-1]
            context = tf.broadcast_to(context, tf.concat([batch, [width]], 0))
            context = tf.reshape(context, [-1, width])
        seed = noise_seed(self, None if current().in_training else self._seed)
        probes = draw_probes(state, trace, self._noise, seed)
        start, end = self._times if forward else self._times[::-1]
        weights = tuple(math.copysign(w, end - start) for w in self._weights)
        rates = Rates(self._network, event, probes, weights if penalised else None)
        rates.build(start, state, context)
        return state, context, Path(self.name, self._network, rates, self._solver, start, end)

    def _describe(self):
        return f"{self._network!r}, {self._parameters['solver']}, {self._trace} trace"


def _check_choice(setting: str, value: Any) -> None:
    if value not in _CHOICES[setting]:
        choices = " or ".join(map(repr, _CHOICES[setting]))
        raise ValueError(f"{setting} must be {choices}, got {value!r}.")


def _check_numbers(given: dict[str, Any]) -> None:
    for name, least in (("event_ndims", 1), ("num_steps", 1), ("max_steps", 1), ("seed", 0)):
        if not isinstance(given[name], int | np.integer) or given[name] < least:
            raise ValueError(f"{name} must be a whole number, {least} or more; got {given[name]}.")
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
