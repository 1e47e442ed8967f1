"""Dense networks, and the inputs that all networks of this package share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfp_flows.keras_engine import keras


def input_of(shape: Sequence[int], dtype: Any):
    """A symbolic input; under a policy such as `"mixed_bfloat16"` the layers cast it."""
    plain = dtype if dtype is None or not str(dtype).startswith("mixed_") else None
    return keras.layers.Input(tuple(shape), dtype=plain)


def with_context(
    first: Sequence[Any],
    rest: Sequence[Any],
    inputs: Sequence[int],
    context: int | Sequence[int] | None,
    dtype: Any,
    name: str,
) -> keras.Model:
    """A network `first`, `rest`, where features of a context are added between the two.

    Args:
      first: a linear layer (and what goes with it), whose activation is in `rest`.
      rest: the layers after it.
      inputs: shape of the kept part.
      context: shape of the context: `(k,)`; or for images `(h, w, c)`, with the height and width
        of the kept part. The network is given it as a flat vector in any case. None: no context.
      dtype: of the layers.
      name: of the model.

    Raises:
      ValueError: a context that is neither a vector nor an image of the right size.
    """
    kept = input_of(inputs, dtype)
    if context is None:
        return keras.Sequential([kept, *first, *rest], name=name)
    x = kept
    for layer in first:
        x = layer(x)
    given, x = add_context(x, context, dtype)
    for layer in rest:
        x = layer(x)
    return keras.Model([kept, *given], x, name=name)


def add_context(x, context: int | Sequence[int] | None, dtype: Any) -> tuple[list, Any]:
    """Adds features of a context to the symbolic `x`: `(the context's input, the sum)`.

    Without a context there is no input, and `x` stays what it is.
    """
    if context is None:
        return [], x
    shape = (context,) if isinstance(context, int) else tuple(context)
    given = input_of((math.prod(shape),), dtype)
    features = _features(given, shape, x.shape[1:], dtype)
    return [given], keras.layers.Add(dtype=dtype)([x, features])


def _features(given, shape: tuple[int, ...], like: Sequence[int], dtype: Any):
    """As many features of the context as `like` has in its last dimension, to add to it."""
    width = like[-1]
    if len(shape) == 1:
        out = keras.layers.Dense(width, use_bias=False, dtype=dtype)(given)
        return keras.layers.Reshape((1,) * (len(like) - 1) + (width,), dtype=dtype)(out)
    if len(shape) != 3 or shape[:2] != tuple(like[:2]):
        raise ValueError(
            f"A context is a vector, (k,), or for images one of their height and width, "
            f"({', '.join(map(str, like[:-1]))}, c): got {shape}."
        )
    image = keras.layers.Reshape(shape, dtype=dtype)(given)
    return keras.layers.Conv2D(width, 3, padding="same", use_bias=False, dtype=dtype)(image)


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


@keras.saving.register_keras_serializable(package="tfp_flows")
class LabelEmbedding(keras.layers.Embedding):
    """`keras.layers.Embedding` that has its vectors from the start: `[...] -> [..., width]`.

    Args:
      input_dim: how many classes; labels are `0 ... input_dim - 1`.
      output_dim: width of a class's vector.
      embeddings_initializer: standard normal, if not given, so that classes differ at once.
      **kwargs: as for any Keras layer.

    Example:
      >>> LabelEmbedding(10, 4)(np.array([0, 9])).shape
      TensorShape([2, 4])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "standard_normal",
        **kwargs,
    ):
        if embeddings_initializer == "standard_normal":
            embeddings_initializer = keras.initializers.RandomNormal(stddev=1.0)
        super().__init__(input_dim, output_dim, embeddings_initializer, **kwargs)
        self.build((None,))

    def build(self, input_shape=None):
        if not self.built:
            super().build(input_shape)
