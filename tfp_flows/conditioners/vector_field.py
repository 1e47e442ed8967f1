"""Networks for continuous flows: the velocity of a state at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tfp_flows.conditioners.dense import input_of
from tfp_flows.keras_engine import keras


def vector_field(
    event_size: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "softplus",
    context: int | Sequence[int] | None = None,
    dtype: Any = None,
    name: str = "vector_field",
) -> keras.Model:
    r"""The velocity of a vector at a time, for `fb.ContinuousFlow`.

    $$ h_{i+1} = a\bigl((W_i h_i + b_i) \odot \sigma(U_i s + c_i) + V_i s\bigr), \qquad
       s = (t, \text{context}) $$

    Time and context scale and shift every layer. The last layer, which has no activation, starts
    at zero, so the flow starts as the identity.

    Source: FFJORD, arXiv 1810.01367, whose code names these layers "concatsquash".

    Args:
      event_size: size of the vector.
      hidden: units of the hidden layers.
      activation: a smooth Keras activation: kinks make the adaptive solver take small steps, and
        the second derivative of `relu`, which the gradient of the log-det needs, is 0.
      context: shape of the context, `(k,)` or `k`; None: no context.
      dtype: dtype or dtype policy of the layers; None: the default of Keras.
      name: name of the model.

    Returns:
      A built `keras.Model` of two inputs, `[n, event_size]` and `[n, 1 + k]`, the time first.

    Example:
      >>> net = vector_field(3, hidden=(16,), context=2)
      >>> [tuple(i.shape) for i in net.inputs], tuple(net.output_shape)
      ([(None, 3), (None, 3)], (None, 3))
    """
    shape = () if context is None else (context,) if isinstance(context, int) else tuple(context)
    state = input_of((event_size,), dtype)
    time = input_of((1 + (math.prod(shape) if shape else 0),), dtype)
    x = state
    for width in hidden:
        x = keras.layers.Activation(activation, dtype=dtype)(_squashed(x, time, width, dtype))
    x = _squashed(x, time, event_size, dtype, initializer="zeros")
    return keras.Model([state, time], x, name=name)


def _squashed(
    x: Any, time: Any, units: int, dtype: Any, initializer: str = "glorot_uniform"
) -> Any:
    """A linear layer of `x`, scaled and shifted by time (and context)."""

    def linear(of: Any, use_bias: bool, initializer: str = "glorot_uniform") -> Any:
        layer = keras.layers.Dense(
            units, use_bias=use_bias, kernel_initializer=initializer, dtype=dtype
        )
        return layer(of)

    gate = keras.layers.Activation("sigmoid", dtype=dtype)(linear(time, use_bias=True))
    scaled = keras.layers.Multiply(dtype=dtype)([linear(x, True, initializer), gate])
    return keras.layers.Add(dtype=dtype)([scaled, linear(time, False, initializer)])
