"""Fully connected conditioner for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfp_flows.conditioners.inputs import input_of
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
    layers = []
    for units in hidden:
        layers.append(keras.layers.Dense(units, activation, dtype=dtype))
        if dropout:
            layers.append(keras.layers.Dropout(dropout, dtype=dtype))
    layers.append(keras.layers.Dense(outputs, kernel_initializer="zeros", dtype=dtype))
    kept = input_of((inputs,), dtype)
    if context is None:
        return keras.Sequential([kept, *layers], name=name)
    # Joined and not added to the first layer, whose sum with a bias TensorFlow fuses wrongly.
    given = input_of((int(np.prod(context)),), dtype)
    x = keras.layers.Concatenate(dtype=dtype)([kept, given])
    for layer in layers:
        x = layer(x)
    return keras.Model([kept, given], x, name=name)
