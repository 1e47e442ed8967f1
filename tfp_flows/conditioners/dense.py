"""Networks of dense and residual layers, and how networks take a context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfp_flows.keras_engine import keras


def input_of(shape: Sequence[int], dtype: Any) -> Any:
    """A symbolic input; under a policy such as `"mixed_bfloat16"` the layers cast it."""
    is_mixed = str(dtype).startswith("mixed_")
    return keras.layers.Input(tuple(shape), dtype=None if is_mixed else dtype)


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
      first: layers that end linearly; their activation is in `rest`.
      rest: the layers after them.
      inputs: shape of the first input.
      context: shape of the context: `(k,)`, or for images `(h, w, c)` with the height and width of
        the first input. The network takes it as a flat vector in either case. None: no context.
      dtype: dtype or dtype policy of the layers.
      name: name of the model.

    Raises:
      ValueError: if the context is neither a vector nor an image of the right size.
    """
    first_input = input_of(inputs, dtype)
    if context is None:
        return keras.Sequential([first_input, *first, *rest], name=name)
    x = _applied(first, first_input)
    context_inputs, x = add_context(x, context, dtype)
    return keras.Model([first_input, *context_inputs], _applied(rest, x), name=name)


def _applied(layers: Sequence[Any], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def add_context(x: Any, context: int | Sequence[int] | None, dtype: Any) -> tuple[list, Any]:
    """Adds features of a context to the symbolic `x`.

    Returns:
      `([the context's input], the sum)`; without a context, `([], x)`.
    """
    if context is None:
        return [], x
    shape = (context,) if isinstance(context, int) else tuple(context)
    context_input = input_of((math.prod(shape),), dtype)
    features = _features(context_input, shape, x.shape[1:], dtype)
    return [context_input], keras.layers.Add(dtype=dtype)([x, features])


def _features(context: Any, shape: tuple[int, ...], like: Sequence[int], dtype: Any) -> Any:
    """Features of a context, of a shape that can be added to one of shape `like`."""
    width = like[-1]
    if len(shape) == 1:
        out = keras.layers.Dense(width, use_bias=False, dtype=dtype)(context)
        return keras.layers.Reshape((1,) * (len(like) - 1) + (width,), dtype=dtype)(out)
    if len(shape) != 3 or shape[:2] != tuple(like[:2]):
        raise ValueError(
            f"A context is a vector, (k,), or for images one of their height and width, "
            f"({', '.join(map(str, like[:-1]))}, c): got {shape}."
        )
    image = keras.layers.Reshape(shape, dtype=dtype)(context)
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
      inputs: size of the input: the number of entries in a coupling's identity part.
      outputs: size of the output: 1 per transformed entry for an additive, 2 for an affine
        coupling.
      hidden: units of the hidden layers.
      activation: a Keras activation.
      dropout: dropout rate after each hidden layer, while training.
      context: shape of the context, `(k,)`, which becomes a second input, `[batch, k]`; None: the
        network has one input.
      dtype: dtype or dtype policy of the layers; None: Keras's default.
      name: name of the model.

    Returns:
      A built `keras.Model`, whose last layer starts at zero.

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
    first_input = input_of((inputs,), dtype)
    if context is None:
        return keras.Sequential([first_input, *layers], name=name)
    # Concatenated, not added after the first layer: TensorFlow fuses that sum with a bias wrongly.
    context_input = input_of((int(np.prod(context)),), dtype)
    x = keras.layers.Concatenate(dtype=dtype)([first_input, context_input])
    return keras.Model([first_input, context_input], _applied(layers, x), name=name)


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
      inputs: shape of the input, `(height, width, channels)`.
      outputs: channels of the output: the parameters of each position.
      hidden: filters of the residual blocks.
      blocks: number of blocks, of two 3x3 convolutions each.
      activation: a Keras activation.
      dropout: dropout rate inside each block, while training.
      context: shape of the context, `(k,)`, or `(height, width, c)` for an image, which becomes a
        second input, a flat vector in either case; None: the network has one input.
      dtype: dtype or dtype policy of the layers; None: Keras's default.
      name: name of the model.

    Returns:
      A built `keras.Model`, whose last layer starts at zero.

    Raises:
      ValueError: if the context is neither a vector nor an image of the input's size.

    Example:
      >>> resnet((4, 4, 2), 4, hidden=8).output_shape
      (None, 4, 4, 4)
    """

    def convolve(x: Any, filters: int, initializer: str = "glorot_uniform") -> Any:
        return keras.layers.Conv2D(
            filters, 3, padding="same", kernel_initializer=initializer, dtype=dtype
        )(x)

    def activate(x: Any) -> Any:
        return keras.layers.Activation(activation, dtype=dtype)(x)

    image = input_of(inputs, dtype)
    context_inputs, x = add_context(convolve(image, hidden), context, dtype)
    for _ in range(blocks):
        shortcut = x
        x = activate(convolve(activate(x), hidden))
        if dropout:
            x = keras.layers.Dropout(dropout, dtype=dtype)(x)
        x = keras.layers.Add(dtype=dtype)([shortcut, convolve(x, hidden)])
    inputs = [image, *context_inputs] if context_inputs else image
    return keras.Model(inputs, convolve(activate(x), outputs, "zeros"), name=name)


@keras.saving.register_keras_serializable(package="tfp_flows")
class LabelEmbedding(keras.layers.Embedding):
    """A built `keras.layers.Embedding`: labels `[...]` to vectors `[..., output_dim]`.

    Args:
      input_dim: number of classes; labels are `0 ... input_dim - 1`.
      output_dim: size of a class's vector.
      embeddings_initializer: a Keras initializer; standard normal by default, so that classes
        differ from the start.
      **kwargs: arguments of a Keras layer.

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

    def build(self, input_shape: Any = None) -> None:
        if not self.built:
            super().build(input_shape)
