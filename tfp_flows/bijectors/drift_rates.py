"""How fast the state and the log-det of a continuous flow change."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import Network

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
      network: the drift.
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
