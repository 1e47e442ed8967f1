"""Parameters that a bijector owns, and that a context may change."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.draws import random_state


class Amortized(FlowBijector):
    """A bijector of vectors: all its numbers are one variable, plus what a network adds to it.

    Without a conditioner every example has the same parameters. With one, the context of each
    example chooses its own: amortised variational inference.

    Args:
      features: size of a vector.
      conditioner: network from contexts, `[n, width]`, to changes of the numbers, `[n, numbers]`;
        None: no context is read.
      seed: of the start; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      raw: the variable to use in place of a new one.
      parameters: as of `FlowBijector`.
      name: name of the bijector.
    """

    def __init__(self, features, conditioner, seed, dtype, raw, parameters, name):
        if features < 1:
            raise ValueError(f"features must be 1 or more, got {features}.")
        self._features = int(features)
        self._seed = seed
        if raw is None:
            raw = tf.Variable(self._start(random_state(seed)), dtype=dtype, name="raw")
        self.raw = raw
        super().__init__(
            forward_min_event_ndims=1,
            parameters={**parameters, "raw": raw},
            name=name,
        )
        self._network = None
        if conditioner is not None:
            self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as it was given; None if there is none."""
        return self._network and self._network.net

    def _start(self, random: np.random.RandomState) -> np.ndarray:
        """The numbers to start from."""
        raise NotImplementedError

    def _fresh_values(self, turn):
        return [(self.raw, self._start(random_state(self._seed, turn)))]

    def _numbers(self, value: tf.Tensor, context) -> tf.Tensor:
        """The numbers for each example of `value`: `[numbers]`, or `[..., numbers]`."""
        if value.shape[-1] != self._features:
            raise ValueError(
                f"{self.name} was made for {self._features} feature(s), got a tensor of shape "
                f"{value.shape}."
            )
        raw = tf.cast(self.raw, value.dtype)
        if self._network is None:
            return raw
        if context is None:
            raise ValueError(f"{self.name} has a conditioner: it needs a context, and got none.")
        context = tf.cast(context, value.dtype)
        if not 1 <= context.shape.rank <= value.shape.rank:
            raise ValueError(
                f"{self.name} takes a context of shape [..., width], with batch dimensions that "
                f"broadcast to those of the examples: got {context.shape} for {value.shape}."
            )
        return raw + self._network(context, 1, raw.shape[0])

    def _describe(self):
        given = "" if self._network is None else f", {self._network!r}"
        return f"{self._features}{given}"


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Scalar products of vectors."""
    return tf.reduce_sum(a * b, axis=-1)


def parts(numbers: tf.Tensor, *sizes: int) -> list[tf.Tensor]:
    """Cuts the last dimension into parts of these sizes."""
    return tf.split(numbers, sizes, axis=-1)
