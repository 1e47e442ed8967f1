"""Fully connected conditioner for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfp_flows.conditioners.inputs import with_context
from tfp_flows.keras_engine import keras


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (128, 128),
    activation: str = "relu",
    dropout: float = 0.0,
    context: int | Sequence[int] | None = None,
    dtype: Any = None,
    name: str = "mlp",
) -> keras.Model:
    """A multi-layer perceptron `[batch, inputs] -> [batch, outputs]`.

    Args:
      inputs: entries of the kept part.
      outputs: parameters wanted: 1 per transformed entry for an additive, 2 for an affine
        coupling.
      hidden: units of the hidden layers.
      activation: a Keras activation.
      dropout: rate after each hidden layer, while training.
      context: shape of the context, `(k,)`, that the network takes as its second input; None if
        it takes none.
      dtype: of the layers; Keras's own default if None.
      name: of the model.

    Returns:
      A built `keras.Model`.

    Example:
      >>> mlp(3, 6, hidden=(16,)).output_shape
      (None, 6)
    """
    layers: list[Any] = []
    for i, width in enumerate(hidden):
        activate = keras.layers.Activation(activation, dtype=dtype)
        if i == 0 and context is not None:  # the context is added before the activation
            layers += [keras.layers.Dense(width, dtype=dtype), activate]
        else:
            layers.append(keras.layers.Dense(width, activation, dtype=dtype))
        if dropout:
            layers.append(keras.layers.Dropout(dropout, dtype=dtype))
    layers.append(keras.layers.Dense(outputs, kernel_initializer="zeros", dtype=dtype))
    return with_context(layers[:1], layers[1:], (inputs,), context, dtype, name)
