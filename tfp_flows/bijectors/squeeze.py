"""Trades space for channels, so that channel masks and 1x1 convolutions mix neighbours."""

from __future__ import annotations

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
      ValueError: height or width (or, on the latent side, channels) cannot be divided.

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
        event = self._forward_event_shape(x.shape)[-3:]
        return self._move(tf.nn.depth_to_space, x, event), tf.zeros([], x.dtype)

    def _inverse_and_log_det(self, y, context):
        event = self._inverse_event_shape(y.shape)[-3:]
        return self._move(tf.nn.space_to_depth, y, event), tf.zeros([], y.dtype)

    def _move(self, op, value, event):
        """Applies `op`, which knows one batch dimension, under any number of them."""
        if self._factor == 1:
            return value
        if value.shape.rank == 4:
            return op(value, self._factor)
        images = tf.reshape(value, tf.concat([[-1], value.shape[-3:]], 0))
        out = op(images, self._factor)
        out = tf.reshape(out, tf.concat([tf.shape(value)[:-3], event], 0))
        out.set_shape(value.shape[:-3] + event)
        return out

    def _forward_event_shape(self, shape):
        h, w, c = _static(shape, self.name)
        if c % self._factor**2:
            raise ValueError(
                f"{self.name}: {c} latent channels cannot be spread over blocks of "
                f"{self._factor}x{self._factor} pixels (shape {shape})."
            )
        return shape[:-3] + [h * self._factor, w * self._factor, c // self._factor**2]

    def _inverse_event_shape(self, shape):
        h, w, c = _static(shape, self.name)
        if h % self._factor or w % self._factor:
            raise ValueError(
                f"{self.name}: an image of {h}x{w} pixels cannot be cut into blocks of "
                f"{self._factor}x{self._factor} (shape {shape}). Pad it, or use fewer levels."
            )
        return shape[:-3] + [h // self._factor, w // self._factor, c * self._factor**2]

    def _forward_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:-1] * f, shape[-1:] // f**2], 0)

    def _inverse_event_shape_tensor(self, shape):
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:-1] // f, shape[-1:] * f**2], 0)

    def _describe(self):
        return str(self._factor)


def _static(shape: tf.TensorShape, name: str) -> list[int]:
    event = shape[-3:]
    if event.rank != 3 or not event.is_fully_defined():
        raise ValueError(
            f"{name} needs events [height, width, channels] of known size, got {shape}."
        )
    return event.as_list()
