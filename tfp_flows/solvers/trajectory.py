"""The trajectory of a continuous flow: augmented dynamics, their solution, and its gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import Network
from tfp_flows.core.bijector import Context
from tfp_flows.core.reversible import vjp_of, with_recomputed_gradient
from tfp_flows.core.substitution import substituted
from tfp_flows.solvers.ode import DormandPrince, RungeKutta4, Solution

_CELLS = 2**22  # of equal probability, for normal draws; float32 could not tell more of them apart


def trace_noise(state: tf.Tensor, trace: str, noise: str, seed: tf.Tensor) -> tf.Tensor:
    r"""The vectors $\epsilon_i$ with which the trace of a Jacobian is computed or estimated.

    $$ \operatorname{tr} J = \sum_i e_i^\top J e_i = \mathbb{E}\, \epsilon^\top J \epsilon $$

    Args:
      state: `[n, size]`.
      trace: `"exact"`, for all unit vectors, or `"hutchinson"`, for one draw per example.
      noise: distribution of the draw, `"rademacher"` or `"gaussian"`.
      seed: of the draw, of shape [2].

    Returns:
      `[size, 1, size]` for `"exact"`, else `[1, n, size]`.
    """
    size = state.shape[-1]
    if trace == "exact":
        return tf.eye(size, dtype=state.dtype)[:, tf.newaxis]
    shape = [1, tf.shape(state)[0], size]
    if noise == "rademacher":
        return tfp.random.rademacher(shape, state.dtype, seed=seed)
    # Integer draws are the same with and without XLA; TensorFlow's own normal draws are not.
    cell = tf.random.stateless_uniform(shape, seed, maxval=_CELLS, dtype=tf.int32)
    return tf.math.ndtri((tf.cast(cell, state.dtype) + 0.5) / _CELLS)


class AugmentedDynamics:
    r"""The derivatives of a state and of what accumulates along its trajectory.

    $$ \frac{dz}{dt} = f(z, t), \qquad
       \frac{d}{dt} \log|\det J| = \sum_i \epsilon_i^\top \frac{\partial f}{\partial z} \epsilon_i,
       \qquad \frac{dp}{dt} = w_1 |f|^2
       + w_2 \sum_i \left|\epsilon_i^\top \frac{\partial f}{\partial z}\right|^2 $$

    Args:
      network: the vector field `f`.
      event: shape of an event, of `size` entries.
      noise: the vectors of the trace, `[count, 1 or n, size]`; see `trace_noise`.
      penalties: the weights `(w_1, w_2)` of the penalty `p`; without them only the log-det
        accumulates.
    """

    def __init__(
        self,
        network: Network,
        event: Sequence[int],
        noise: tf.Tensor,
        penalties: tuple[float, float] | None = None,
    ):
        self.network = network
        self._event = list(event)
        self._noise = noise
        self._penalties = penalties

    @property
    def num_accumulators(self) -> int:
        """1, the log-det, or 2, with the penalty."""
        return 1 if self._penalties is None else 2

    def __call__(self, t: tf.Tensor, state: tf.Tensor, context: Context) -> list[tf.Tensor]:
        """The derivatives of the state, `[n, size]`, and of the accumulators, `[n, 1 or 2]`."""
        count, (n, size) = self._noise.shape[0], tf.unstack(tf.shape(state))
        noise = tf.broadcast_to(self._noise, [count, n, size])
        # One copy of the batch per vector of noise: one evaluation and one gradient serve all.
        copies = tf.tile(state, [count, 1])
        contexts = None if context is None else tf.tile(context, [count, 1])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(copies)
            velocity = self.velocity(t, copies, contexts)
        vjp = tape.gradient(
            velocity,
            copies,
            tf.reshape(noise, [-1, state.shape[-1]]),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        vjp = tf.reshape(vjp, tf.shape(noise))
        velocity = velocity[:n]
        rates = [tf.reduce_sum(vjp * noise, axis=[0, 2])]
        if self._penalties is not None:
            kinetic, jacobian = self._penalties
            speed = tf.reduce_sum(velocity**2, axis=-1)
            rates.append(kinetic * speed + jacobian * tf.reduce_sum(vjp**2, axis=[0, 2]))
        return [velocity, tf.stack(rates, axis=-1)]

    def velocity(self, t: tf.Tensor, state: tf.Tensor, context: Context) -> tf.Tensor:
        """The vector field at states `[n, size]`, each of which is an event."""
        time = tf.fill([tf.shape(state)[0], 1], t)
        time = time if context is None else tf.concat([time, context], axis=-1)
        events = tf.reshape(state, [-1, *self._event])
        events = tf.ensure_shape(events, [state.shape[0], *self._event])
        velocity = self.network(events, len(self._event), self._event[-1], time)
        return tf.reshape(velocity, [-1, math.prod(self._event)])


class Trajectory:
    """The solution of augmented dynamics from one time to another.

    Args:
      dynamics: of the state and of the accumulators, which start at 0.
      solver: for the trajectory and, if it is adaptive, for the adjoint equation.
      start, end: times; either may be the later one.
      name: for error messages.
    """

    def __init__(
        self,
        dynamics: AugmentedDynamics,
        solver: DormandPrince | RungeKutta4,
        start: float,
        end: float,
        name: str,
    ):
        self._dynamics = dynamics
        self._network = dynamics.network
        self._solver = solver
        self._start = start
        self._end = end
        self._name = name

    def solve(self, state: tf.Tensor, context: Context) -> Solution:
        """The state `[n, size]` and the accumulators `[n, 1 or 2]` at the end."""
        self._build_network(state, context)
        accumulators = tf.zeros([tf.shape(state)[0], self._dynamics.num_accumulators], state.dtype)
        accumulators = tf.ensure_shape(accumulators, [state.shape[0], accumulators.shape[1]])

        def dynamics(t, state, _):
            return self._dynamics(t, state, context)

        with self._fixed_variables():
            return self._solver.solve(dynamics, [state, accumulators], self._start, self._end, 2)

    def integrate(self, state: tf.Tensor, context: Context) -> tuple[tf.Tensor, tf.Tensor]:
        """As `solve`, the state and the accumulators alone, with gradients for all they depend on.

        With fixed steps gradients are those of the steps, else they solve the adjoint equation.
        """
        if isinstance(self._solver, RungeKutta4):
            return tuple(self.solve(state, context).state)

        def recompute_inputs(end, d_end, d_accumulators, sources, context):
            found = self._solve_adjoint(end, d_end, d_accumulators, sources, context)
            return found[0], found[1], found[2:]

        self._build_network(state, context)
        return with_recomputed_gradient(
            lambda state, context: self.solve(state, context).state,
            recompute_inputs,
            self._network.variables,
            state,
            context,
            f"{self._name} has no second derivatives with solver='adaptive', whose gradient is "
            "the solution of another equation. Use solver='fixed'.",
        )

    def _solve_adjoint(
        self,
        end: tf.Tensor,
        d_end: tf.Tensor,
        d_accumulators: tf.Tensor,
        sources: Sequence[tf.Tensor],
        context: Context,
    ) -> list[tf.Tensor]:
        """The state at the start and the gradients there, from those at the end.

        The gradient `a` of the state obeys `da/dt = -a df/dz`, and that of a source is the
        integral of `a df/dsource`, which does not influence the steps (arXiv 2009.09457).
        """
        # The equation is linear in the gradients, and the tolerances suit those of size 1.
        scale = tf.maximum(_largest_finite(d_end), _largest_finite(d_accumulators))
        scale = tf.where(scale > 0, scale, 1)
        d_accumulators = d_accumulators / scale

        def adjoint(t, state, d_state, *_):
            with tf.GradientTape() as tape:
                tape.watch([state, *sources])
                velocity, rates = self._dynamics(t, state, context)
            outputs, d_outputs = [velocity, rates], [d_state, d_accumulators]
            found = vjp_of(tape, outputs, d_outputs, [state, *sources])
            pairs = zip((state, *sources), found, strict=True)
            return [velocity, *(tf.zeros_like(s) if d is None else -d for s, d in pairs)]

        state = [end, d_end / scale, *(tf.zeros_like(s) for s in sources)]
        with self._fixed_variables():
            solution = self._solver.solve(adjoint, state, self._end, self._start, 2)
        value, *gradients = solution.state
        return [value, *(g * scale for g in gradients)]

    def _build_network(self, state: tf.Tensor, context: Context) -> None:
        """Calls a Keras model that is not built yet, so that it creates its variables."""
        if not getattr(self._network.net, "built", True):
            self._dynamics.velocity(tf.constant(self._start, state.dtype), state, context)

    @contextlib.contextmanager
    def _fixed_variables(self) -> Iterator[None]:
        """Within the block the network's variables are read once, and must not be assigned."""
        variables = list(self._network.variables)
        with substituted(variables, [tf.convert_to_tensor(v) for v in variables]) as assigned:
            yield
        if assigned:
            names = ", ".join(variables[i].name for i in assigned)
            raise ValueError(
                f"The vector field of {self._name} updates {names} when it is called, as dropout "
                "and batch normalisation do. A differential equation needs the same vector field "
                "at every call: remove such layers."
            )


def _largest_finite(tensor: tf.Tensor) -> tf.Tensor:
    """The largest absolute value of the finite entries."""
    size = tf.abs(tensor)
    return tf.reduce_max(tf.where(tf.math.is_finite(size), size, tf.zeros_like(size)))
