"""Drift networks of continuous flows: the velocity of a state at a time."""

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

    So time and context scale and shift every layer. The last layer, which has no activation, is
    zero at the start: the flow starts as the identity.

    Source: FFJORD, arXiv 1810.01367, whose code names these layers "concatsquash".

    Args:
      event_size: entries of the vector.
      hidden: units of the hidden layers.
      activation: a Keras activation, smooth: a kink makes the adaptive solver take small steps,
        and `relu` has no useful second derivative, which the log-det's gradient needs.
      context: shape of the context, `(k,)`; None if there is none.
      dtype: of the layers; Keras's own default if None.
      name: of the model.

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


def _squashed(x, time, units: int, dtype: Any, initializer: str = "glorot_uniform"):
    """A linear layer of `x`, scaled and shifted by time (and context)."""

    def linear(of, use_bias: bool, initializer: str = "glorot_uniform"):
        layer = keras.layers.Dense(
            units, use_bias=use_bias, kernel_initializer=initializer, dtype=dtype
        )
        return layer(of)

    gate = keras.layers.Activation("sigmoid", dtype=dtype)(linear(time, use_bias=True))
    scaled = keras.layers.Multiply(dtype=dtype)([linear(x, True, initializer), gate])
    return keras.layers.Add(dtype=dtype)([scaled, linear(time, False, initializer)])
