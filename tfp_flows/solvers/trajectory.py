"""The trajectory of a continuous flow: its augmented dynamics, and its gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import Network
from tfp_flows.core.reversible import vjp_of, with_recomputed_gradient
from tfp_flows.core.substitution import substituted
from tfp_flows.solvers.ode import Adaptive, Fixed, Solution

_CELLS = 2**22  # of equal probability, for normal draws; more, and float32 could not tell them


def draw_probes(state: tf.Tensor, trace: str, noise: str, seed: tf.Tensor) -> tf.Tensor:
    r"""The vectors `[count, 1 or n, size]` that a Jacobian is seen through.

    $$ \operatorname{tr} J = \sum_i e_i^\top J e_i = \mathbb{E}\, \epsilon^\top J \epsilon $$

    Args:
      state: `[n, size]`.
      trace: `"exact"`, for all unit vectors, or `"hutchinson"`, for one draw for each example.
      noise: `"rademacher"` or `"gaussian"`.
      seed: of the draw, of shape [2].
    """
    size = state.shape[-1]
    if trace == "exact":
        return tf.eye(size, dtype=state.dtype)[:, tf.newaxis]
    shape = [1, tf.shape(state)[0], size]
    if noise == "rademacher":
        return tfp.random.rademacher(shape, state.dtype, seed=seed)
    # Whole numbers are the same with and without XLA; TensorFlow's own normal draws are not.
    cell = tf.random.stateless_uniform(shape, seed, maxval=_CELLS, dtype=tf.int32)
    return tf.math.ndtri((tf.cast(cell, state.dtype) + 0.5) / _CELLS)


class Rates:
    """The rates of a state, `[n, size]`, and of what its path gains, `[n, 1 or 2]`.

    Args:
      network: the vector field.
      event: shape of an event.
      probes: see `draw_probes`.
      weights: of `|f|^2` and of the squared norm of the Jacobian in the penalty; None if there
        is none.
    """

    def __init__(
        self,
        network: Network,
        event: tuple[int, ...],
        probes: tf.Tensor,
        weights: tuple[float, float] | None,
    ):
        self._network = network
        self._event = event
        self._probes = probes
        self._weights = weights

    @property
    def gains(self) -> int:
        """How many numbers a path gains: the log-det, and the penalty."""
        return 1 if self._weights is None else 2

    def build(self, t: float, state: tf.Tensor, context: tf.Tensor | None) -> None:
        """Calls a Keras model that has no variables yet, so that it makes them."""
        if not getattr(self._network.net, "built", True):
            self._velocity(tf.constant(t, state.dtype), state, context)

    def __call__(self, t: tf.Tensor, state: tf.Tensor, context: tf.Tensor | None) -> list:
        count, size = self._probes.shape[0], math.prod(self._event)
        probes = tf.broadcast_to(self._probes, [count, *tf.unstack(tf.shape(state))])
        # One copy of the batch for each probe: one evaluation and one gradient serve all.
        copies = tf.tile(state, [count, 1])
        contexts = None if context is None else tf.tile(context, [count, 1])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(copies)
            velocity = self._velocity(t, copies, contexts)
        rows = tape.gradient(
            velocity,
            copies,
            tf.reshape(probes, [-1, size]),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        rows = tf.reshape(rows, tf.shape(probes))
        velocity = velocity[: tf.shape(state)[0]]
        gains = [tf.reduce_sum(rows * probes, axis=[0, 2])]
        if self._weights is not None:
            kinetic, jacobian = self._weights
            speed = tf.reduce_sum(velocity**2, axis=-1)
            gains.append(kinetic * speed + jacobian * tf.reduce_sum(rows**2, axis=[0, 2]))
        return [velocity, tf.stack(gains, axis=-1)]

    def _velocity(self, t: tf.Tensor, state: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
        time = tf.fill([tf.shape(state)[0], 1], t)
        time = time if context is None else tf.concat([time, context], axis=-1)
        shape = tf.concat([[-1], self._event], 0)
        events = tf.ensure_shape(tf.reshape(state, shape), [state.shape[0], *self._event])
        velocity = self._network(events, len(self._event), self._event[-1], time)
        return tf.reshape(velocity, [-1, math.prod(self._event)])


class Path:
    """Solves for the end of a path, and for what it gains on the way.

    Args:
      owner: name for messages.
      network: the vector field.
      rates: of the state and of the gains.
      solver: how.
      start, end: the times.
    """

    def __init__(
        self,
        owner: str,
        network: Network,
        rates: Rates,
        solver: Adaptive | Fixed,
        start: float,
        end: float,
    ):
        self._owner = owner
        self._network = network
        self._rates = rates
        self._solver = solver
        self._start = start
        self._end = end

    def solve(self, state: tf.Tensor, context: tf.Tensor | None) -> Solution:
        """Follows the state `[n, size]` and the gains `[n, count]`, which start at 0."""
        count = self._rates.gains
        gains = tf.zeros([tf.shape(state)[0], count], state.dtype)
        gains = tf.ensure_shape(gains, [state.shape[0], count])

        def of_both(t, state, _):
            return self._rates(t, state, context)

        with self._steady():
            return self._solver.solve(of_both, [state, gains], self._start, self._end, 2)

    def follow(self, state: tf.Tensor, context: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """The state and the gains at the end, with gradients for all that they depend on.

        They come from the steps themselves on a fixed grid, else from the adjoint equation.
        """
        if isinstance(self._solver, Fixed):
            return tuple(self.solve(state, context).state)
        no_second = (
            f"{self._owner} has no second derivatives with solver='adaptive', whose gradient is "
            "the solution of another equation. Use solver='fixed'."
        )

        def recompute_inputs(end, d_end, d_gains, sources, context):
            found = self._solve_adjoint(end, d_end, d_gains, sources, context)
            return found[0], found[1], found[2:]

        return with_recomputed_gradient(
            lambda state, context: self.solve(state, context).state,
            recompute_inputs,
            self._network.variables,
            state,
            context,
            no_second,
        )

    def _solve_adjoint(self, end, d_end, d_gains, sources, context) -> list[tf.Tensor]:
        """The state at the start and the gradients there, from those at the end.

        The gradient of the state obeys `da/dt = -a df/dz`, and that of a source is the integral
        of `a df/dsource`, which lets the others choose the steps (arXiv 2009.09457).
        """
        # All is linear in the gradients, and tolerances suit those that are about 1.
        scale = tf.maximum(_largest(d_end), _largest(d_gains))
        scale = tf.where(scale > 0, scale, 1)
        d_gains = d_gains / scale

        def backwards(t, state, d_state, *_):
            with tf.GradientTape() as tape:
                tape.watch([state, *sources])
                velocity, gain = self._rates(t, state, context)
            found = vjp_of(tape, [velocity, gain], [d_state, d_gains], [state, *sources])
            pairs = zip((state, *sources), found, strict=True)
            return [velocity, *(tf.zeros_like(s) if d is None else -d for s, d in pairs)]

        state = [end, d_end / scale, *(tf.zeros_like(s) for s in sources)]
        with self._steady():
            solved = self._solver.solve(backwards, state, self._end, self._start, 2)
        value, *gradients = solved.state
        return [value, *(g * scale for g in gradients)]

    @contextlib.contextmanager
    def _steady(self) -> Iterator[None]:
        """Variables are read once for a solve, and must not be written within."""
        variables = list(self._network.variables)
        with substituted(variables, [tf.convert_to_tensor(v) for v in variables]) as assigned:
            yield
        if assigned:
            names = ", ".join(variables[place].name for place in assigned)
            raise ValueError(
                f"The vector field of {self._owner} updates {names} when it is called, as "
                "dropout and batch normalisation do. A differential equation needs the same vector "
                "field at every call: leave such layers out."
            )


def _largest(tensor: tf.Tensor) -> tf.Tensor:
    """The size of the largest entry that is finite."""
    size = tf.abs(tensor)
    return tf.reduce_max(tf.where(tf.math.is_finite(size), size, tf.zeros_like(size)))
