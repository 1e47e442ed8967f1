"""Trades space for channels, so that channel masks and 1x1 convolutions mix neighbours."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfp_flows.core import FlowBijector


class Squeeze(FlowBijector):
    r"""Moves `factor x factor` blocks of pixels into the channels, from data to latent.

    `inverse` (data -> latent) squeezes `[h, w, c]` to `[h/factor, w/factor, c*factor^2]`, and
    `forward` (latent -> data) spreads the channels out again. The log-det is 0.

    Source: Density estimation using Real NVP, arXiv 1605.08803, section 3.6.

    Args:
      factor: side of the blocks, in pixels.
      name: name of the bijector.

    Raises:
      ValueError: if `factor` < 1, or it does not divide height and width (its square the channels,
        on the latent side).

    Example:
      >>> Squeeze().inverse(tf.zeros([10, 8, 8, 3])).shape
      TensorShape([10, 4, 4, 12])
    """

    def __init__(self, factor: int = 2, name: str = "squeeze"):
        parameters = dict(locals())
        if factor < 1:
            raise ValueError(f"factor must be 1 or more, got {factor}.")
        self._factor = int(factor)
        super().__init__(
            forward_min_event_ndims=3, is_constant_jacobian=True, parameters=parameters, name=name
        )

    def _forward_and_log_det(self, x, context):
        return self._move(tf.nn.depth_to_space, x, forward=True), tf.zeros([], x.dtype)

    def _inverse_and_log_det(self, y, context):
        return self._move(tf.nn.space_to_depth, y, forward=False), tf.zeros([], y.dtype)

    def _move(self, op: Callable, value: tf.Tensor, forward: bool) -> tf.Tensor:
        """Applies `op`, which knows one batch dimension, under any number of them."""
        shape_of, shape_after = self._inverse_event_shape, self._inverse_event_shape_tensor
        if forward:
            shape_of, shape_after = self._forward_event_shape, self._forward_event_shape_tensor
        static = shape_of(value.shape)  # raises where sizes cannot be divided
        if self._factor == 1:
            return value
        if value.shape.rank != 4:
            images = tf.reshape(value, tf.concat([[-1], tf.shape(value)[-3:]], 0))
            images.set_shape([None, *value.shape[-3:]])
            out = tf.reshape(op(images, self._factor), shape_after(tf.shape(value)))
        else:
            out = op(value, self._factor)
        out.set_shape(static)
        return out

    def _forward_event_shape(self, shape):
        h, w, c = _event(shape, self.name)
        if c is not None and c % self._factor**2:
            raise ValueError(
                f"{self.name}: {c} latent channels cannot be spread over blocks of "
                f"{self._factor}x{self._factor} pixels (shape {shape})."
            )
        f = self._factor
        return _after(shape, [n and n * f for n in (h, w)], c and c // f**2)

    def _inverse_event_shape(self, shape):
        h, w, c = _event(shape, self.name)
        if (h or 0) % self._factor or (w or 0) % self._factor:
            raise ValueError(
                f"{self.name}: an image of {h}x{w} pixels cannot be cut into blocks of "
                f"{self._factor}x{self._factor} (shape {shape}). Pad it, or use fewer scales."
            )
        f = self._factor
        return _after(shape, [n and n // f for n in (h, w)], c and c * f**2)

    def _forward_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:-1] * f, shape[-1:] // f**2], 0)

    def _inverse_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:-1] // f, shape[-1:] * f**2], 0)

    def _describe(self):
        return str(self._factor)


def _event(shape: tf.TensorShape, name: str) -> list[int | None]:
    """Height, width and channels; None for an unknown size."""
    if shape.rank is None:
        return [None, None, None]
    if shape.rank < 3:
        raise ValueError(f"{name} needs events [height, width, channels], got {shape}.")
    return shape[-3:].as_list()


def _after(shape: tf.TensorShape, size: list[int | None], channels: int | None) -> tf.TensorShape:
    return tf.TensorShape(None) if shape.rank is None else shape[:-3] + [*size, channels]
