"""The inputs of a conditioner: the kept part, and a context if there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
