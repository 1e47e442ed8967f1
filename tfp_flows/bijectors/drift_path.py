"""The path of a continuous flow from one time to another, and its gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tfp_flows.bijectors.drift_rates import Rates
from tfp_flows.core import Network
from tfp_flows.core.ode import Adaptive, Fixed, Solution
from tfp_flows.core.reversal import pull, with_rebuilt_gradient
from tfp_flows.core.substitution import reading


class Path:
    """Solves for the end of a path, and for what it gains on the way.

    Args:
      owner: name for messages.
      network: the drift.
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

        def rebuild_inputs(end, d_end, d_gains, sources, context):
            found = self._solve_adjoint(end, d_end, d_gains, sources, context)
            return found[0], found[1], found[2:]

        return with_rebuilt_gradient(
            lambda state, context: self.solve(state, context).state,
            rebuild_inputs,
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
            found = pull(tape, [velocity, gain], [d_state, d_gains], [state, *sources])
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
        with reading(variables, [tf.convert_to_tensor(v) for v in variables]) as assigned:
            yield
        if assigned:
            names = ", ".join(variables[place].name for place in assigned)
            raise ValueError(
                f"The drift of {self._owner} updates {names} when it is called, as dropout and "
                "batch normalisation do. A differential equation needs the same drift at every "
                "call: leave such layers out."
            )


def _largest(tensor: tf.Tensor) -> tf.Tensor:
    """The size of the largest entry that is finite."""
    size = tf.abs(tensor)
    return tf.reduce_max(tf.where(tf.math.is_finite(size), size, tf.zeros_like(size)))
