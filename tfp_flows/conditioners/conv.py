"""Convolutional networks for images, as in Glow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfp_flows.conditioners.dense import with_context
from tfp_flows.keras_engine import keras


def conv(
    inputs: Sequence[int],
    outputs: int,
    hidden: int = 64,
    activation: str = "relu",
    dropout: float = 0.0,
    position_bias: bool = False,
    context: int | Sequence[int] | None = None,
    dtype: Any = None,
    name: str = "conv",
) -> keras.Model:
    """Convolutions 3x3, 1x1, 3x3: `[b, h, w, c] -> [b, h, w, outputs]`.

    Source: Glow, arXiv 1807.03039, section 5.

    Args:
      inputs: shape of the input, `(height, width, channels)`.
      outputs: channels of the output: the parameters of each position.
      hidden: filters of the two hidden layers.
      activation: a Keras activation.
      dropout: dropout rate after each hidden layer, while training.
      position_bias: whether the first layer has a bias for every position, in place of one for
        all positions.
      context: shape of the context, `(k,)`, or `(height, width, c)` for an image, which becomes a
        second input, a flat vector in either case; None: the network has one input.
      dtype: dtype or dtype policy of the layers; None: Keras's default.
      name: name of the model.

    Returns:
      A built `keras.Model`, whose last layer starts at zero.

    Raises:
      ValueError: if the context is neither a vector nor an image of the input's size.

    Example:
      >>> conv((4, 4, 2), 4, hidden=8).output_shape
      (None, 4, 4, 4)
    """

    def convolve(filters: int, kernel: int, **kwargs: Any) -> keras.layers.Layer:
        return keras.layers.Conv2D(filters, kernel, padding="same", dtype=dtype, **kwargs)

    dropouts = [keras.layers.Dropout(dropout, dtype=dtype) for _ in range(2 if dropout else 0)]
    if position_bias:
        first = [convolve(hidden, 3, use_bias=False), PositionBias(dtype=dtype)]
    elif context is not None:
        first = [convolve(hidden, 3)]
    else:
        first = [convolve(hidden, 3, activation=activation)]
    rest = [*dropouts[:1], convolve(hidden, 1, activation=activation), *dropouts[1:]]
    if position_bias or context is not None:
        rest = [keras.layers.Activation(activation, dtype=dtype), *rest]
    rest.append(convolve(outputs, 3, kernel_initializer="zeros"))
    return with_context(first, rest, inputs, context, dtype, name)


@keras.saving.register_keras_serializable(package="tfp_flows")
class PositionBias(keras.layers.Layer):
    """Adds a trainable bias of the shape of one example, `[h, w, c]`."""

    def build(self, input_shape: Any) -> None:
        self.bias = self.add_weight(shape=input_shape[1:], initializer="zeros", name="bias")
        self.built = True

    def call(self, x: Any) -> Any:
        return x + self.bias
