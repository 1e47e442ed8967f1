"""Glow's convolutional conditioner for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfp_flows.conditioners.inputs import input_of
from tfp_flows.keras_engine import keras


def conv(
    inputs: Sequence[int],
    outputs: int,
    hidden: int = 64,
    activation: str = "relu",
    dropout: float = 0.0,
    position_bias: bool = False,
    dtype: Any = None,
    name: str = "conv",
) -> keras.Model:
    """Convolutions 3x3, 1x1, 3x3 with the last at zero: `[b, h, w, c] -> [b, h, w, outputs]`.

    Source: Glow, arXiv 1807.03039, section 5.

    Args:
      inputs: shape of the kept part, `(height, width, channels)`.
      outputs: parameters wanted in the last dimension.
      hidden: filters of the two hidden layers.
      activation: a Keras activation.
      dropout: rate after each hidden layer, while training.
      position_bias: whether the first layer has a bias for every position, in place of one for
        all of them.
      dtype: of the layers; Keras's own default if None.
      name: of the model.

    Returns:
      A built `keras.Model`.

    Example:
      >>> conv((4, 4, 2), 4, hidden=8).output_shape
      (None, 4, 4, 4)
    """
    layers = [input_of(inputs, dtype)]
    for kernel in (3, 1):
        if position_bias and kernel == 3:
            layers += [
                keras.layers.Conv2D(hidden, kernel, padding="same", use_bias=False, dtype=dtype),
                PositionBias(dtype=dtype),
                keras.layers.Activation(activation, dtype=dtype),
            ]
        else:
            layers.append(
                keras.layers.Conv2D(hidden, kernel, 1, "same", activation=activation, dtype=dtype)
            )
        if dropout:
            layers.append(keras.layers.Dropout(dropout, dtype=dtype))
    layers.append(
        keras.layers.Conv2D(outputs, 3, padding="same", kernel_initializer="zeros", dtype=dtype)
    )
    return keras.Sequential(layers, name=name)


@keras.saving.register_keras_serializable(package="tfp_flows")
class PositionBias(keras.layers.Layer):
    """Adds a trainable bias of the shape of one example, `[h, w, c]`."""

    def build(self, input_shape):
        self.bias = self.add_weight(shape=input_shape[1:], initializer="zeros", name="bias")
        self.built = True

    def call(self, x):
        return x + self.bias
