"""RealNVP's residual conditioner for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfp_flows.conditioners.inputs import add_context, input_of
from tfp_flows.keras_engine import keras


def resnet(
    inputs: Sequence[int],
    outputs: int,
    hidden: int = 64,
    blocks: int = 2,
    activation: str = "relu",
    dropout: float = 0.0,
    context: int | Sequence[int] | None = None,
    dtype: Any = None,
    name: str = "resnet",
) -> keras.Model:
    """Pre-activation residual blocks: `[b, h, w, c] -> [b, h, w, outputs]`.

    Source: Density estimation using Real NVP, arXiv 1605.08803, section 3.4 (without its batch
    and weight normalisation, which small images do not need).

    Args:
      inputs: shape of the kept part, `(height, width, channels)`.
      outputs: parameters wanted in the last dimension.
      hidden: filters of the residual blocks.
      blocks: number of blocks, of two 3x3 convolutions each.
      activation: a Keras activation.
      dropout: rate inside each block, while training.
      context: shape of the context that the network takes as its second input, always as a flat
        vector: `(k,)`, or `(height, width, c)` for an image; None if it takes none.
      dtype: of the layers; Keras's own default if None.
      name: of the model.

    Returns:
      A built `keras.Model`.

    Example:
      >>> resnet((4, 4, 2), 4, hidden=8).output_shape
      (None, 4, 4, 4)
    """

    def convolve(x, filters, initializer="glorot_uniform"):
        return keras.layers.Conv2D(
            filters, 3, padding="same", kernel_initializer=initializer, dtype=dtype
        )(x)

    def activate(x):
        return keras.layers.Activation(activation, dtype=dtype)(x)

    image = input_of(inputs, dtype)
    given, x = add_context(convolve(image, hidden), context, dtype)
    for _ in range(blocks):
        shortcut = x
        x = activate(convolve(activate(x), hidden))
        if dropout:
            x = keras.layers.Dropout(dropout, dtype=dtype)(x)
        x = keras.layers.Add(dtype=dtype)([shortcut, convolve(x, hidden)])
    return keras.Model(
        [image, *given] if given else image, convolve(activate(x), outputs, "zeros"), name=name
    )
