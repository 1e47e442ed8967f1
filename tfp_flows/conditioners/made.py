"""MADE: a network whose outputs for an entry depend on the entries before it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.conditioners.dense import with_context
from tfp_flows.core.random_values import random_state
from tfp_flows.keras_engine import keras

ORDERS = ("sequential", "reverse", "random")


def made(
    event_size: int,
    num_params: int,
    hidden: Sequence[int] = (128, 128),
    order: str | Sequence[int] = "sequential",
    activation: str = "relu",
    context: int | Sequence[int] | None = None,
    seed: int | None = None,
    dtype: Any = None,
    name: str = "made",
    inputs_per_entry: int = 1,
) -> keras.Model:
    r"""A masked perceptron `[batch, event_size] -> [batch, num_params * event_size]`.

    The output holds the first parameter of all entries, then the second of all entries, and so on.
    With entries `o_1, o_2, ...` in the order, those of `o_k` depend on the entries
    `o_1 ... o_{k-1}` and on the context:

    $$ \partial\,\mathrm{out}_{o_k} / \partial x_{o_j} = 0 \quad \text{for } j \ge k $$

    All outputs start at zero.

    Source: MADE: Masked Autoencoder for Distribution Estimation, arXiv 1502.03509.

    Args:
      event_size: entries of the event.
      num_params: parameters of each entry, as a transformer's `num_params`: 2 for an affine
        layer, `3 * bins - 1` for splines.
      hidden: units of the hidden layers, one layer or more.
      order: `"sequential"` (first entry first), `"reverse"`, `"random"`, or the indices of the
        entries from the one that depends on nothing to the one that depends on all others.
      activation: a Keras activation.
      context: width of the context that the network takes as its second input; every output
        depends on all of it. None if it takes none.
      seed: of the random order; from TensorFlow's global generator if None.
      dtype: of the layers; Keras's own default if None.
      name: of the model.
      inputs_per_entry: how many inputs stand for an entry, as `[batch, inputs_per_entry *
        event_size]`: 2 for circular splines, whose conditioners are given all cosines of the
        angles and then all sines.

    Returns:
      A built `keras.Model`.

    Raises:
      ValueError: if the order is not a permutation of the entries, or a size is below 1.

    Example:
      >>> made(3, 2, hidden=(16,), order=[2, 0, 1]).output_shape
      (None, 6)
    """
    sizes = (event_size, num_params, inputs_per_entry, *hidden)
    if not hidden or min(sizes) < 1:
        raise ValueError(
            f"made needs sizes of 1 or more, and one hidden layer at least; got {event_size=}, "
            f"{num_params=}, hidden={tuple(hidden)}, {inputs_per_entry=}."
        )
    ranks = np.empty(event_size, int)  # 1 for the entry that depends on nothing
    ranks[_entries_in_order(order, event_size, seed)] = np.arange(1, event_size + 1)
    # A unit of degree k depends on the k first entries. Those of degree 0 depend on the context
    # alone, which reaches the parameters of the first entry through them.
    least = min(1, event_size - 1) if context is None else 0
    before, layers = np.tile(ranks, inputs_per_entry), []
    for width in hidden:
        degrees = np.rint(np.linspace(least, event_size - 1, width)).astype(int)
        layers += [MaskedDense(before, degrees, dtype=dtype), _activate(activation, dtype)]
        before = degrees
    outputs = np.tile(ranks - 1, num_params)
    layers.append(MaskedDense(before, outputs, kernel_initializer="zeros", dtype=dtype))
    inputs = (inputs_per_entry * event_size,)
    return with_context(layers[:1], layers[1:], inputs, context, dtype, name)


def _activate(activation: str, dtype: Any) -> keras.layers.Layer:
    return keras.layers.Activation(activation, dtype=dtype)


def _entries_in_order(order: str | Sequence[int], size: int, seed: int | None) -> np.ndarray:
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS} or a permutation, got {order!r}.")
        if order == "random":
            return random_state(seed).permutation(size)
        return np.arange(size)[:: -1 if order == "reverse" else 1]
    given = np.asarray(order)
    if given.shape != (size,) or sorted(given.tolist()) != list(range(size)):
        raise ValueError(
            f"order must be a permutation of 0 ... {size - 1}, one index for each of the {size} "
            f"entries, got {given.tolist()}."
        )
    return given.astype(int)


@keras.saving.register_keras_serializable(package="tfp_flows")
class MaskedDense(keras.layers.Dense):
    """`keras.layers.Dense` where a unit is connected to the inputs of its own degree and below.

    The degrees are variables that are not trained, so weights files hold them, and replicas share
    them: weights that belong to one random order are never used with another.

    Args:
      input_degrees: one whole number for each input.
      output_degrees: one whole number for each unit.
      **kwargs: as for `keras.layers.Dense`.

    Example:
      >>> layer = MaskedDense([1, 2], [0, 1, 2], kernel_initializer="ones")
      >>> np.asarray(layer(tf.constant([[10.0, 1.0]])))
      array([[ 0., 10., 11.]], dtype=float32)
    """

    def __init__(self, input_degrees: Sequence[int], output_degrees: Sequence[int], **kwargs):
        super().__init__(len(output_degrees), **kwargs)
        self._start = tuple(map(int, input_degrees)), tuple(map(int, output_degrees))
        self._inputs = self._outputs = None

    def build(self, input_shape):
        super().build(input_shape)
        self._inputs, self._outputs = (
            self.add_weight(
                name=name,
                shape=(len(start),),
                dtype="int32",
                initializer=keras.initializers.Constant(start),
                trainable=False,
            )
            for name, start in zip(("input_degrees", "output_degrees"), self._start, strict=True)
        )

    @property
    def input_degrees(self) -> list[int]:
        """One whole number for each input."""
        return self._degrees(self._inputs, self._start[0])

    @property
    def output_degrees(self) -> list[int]:
        """One whole number for each unit."""
        return self._degrees(self._outputs, self._start[1])

    def _degrees(self, variable, start: tuple[int, ...]) -> list[int]:
        # Plain integers: a configuration is written as JSON.
        return list(start if variable is None else map(int, np.asarray(variable)))

    def call(self, inputs):
        input_degrees = tf.convert_to_tensor(self._inputs)[:, tf.newaxis]
        mask = input_degrees <= tf.convert_to_tensor(self._outputs)
        kernel = self.kernel * tf.cast(mask, inputs.dtype)
        return self.activation(tf.matmul(inputs, kernel) + self.bias)

    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)  # that of Dense leaves the degrees out

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict:
        config = super().get_config()
        del config["units"]
        return config | {
            "input_degrees": self.input_degrees,
            "output_degrees": self.output_degrees,
        }
