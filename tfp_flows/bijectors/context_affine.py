"""An affine layer that a context sets."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.transformers.affine import ScaleMap, get_scale_map


class ContextAffine(FlowBijector):
    r"""Scales and shifts every channel by functions of the context alone.

    $$ y = x \odot e^{s(c)} + t(c), \qquad \log|\det J| = \textstyle\sum s(c) $$

    At the latent end of a flow it makes the prior depend on the context, as Glow's prior does on
    the class.

    Source: Glow, arXiv 1807.03039, and its authors' code.

    Args:
      conditioner: a Keras layer, `tf.Module` or function from contexts `[..., k]` to
        `[..., 2 * channels]`: first all shifts `t`, then all raw scales.
      event_ndims: rank of an event; its last dimension holds the channels.
      scale_map: see `AffineCoupling`.
      name: name of the bijector.

    Raises:
      ValueError: an `event_ndims` below 1; on a call, no context.

    Example:
      >>> affine = ContextAffine(lambda c: tf.concat([c, 0.0 * c], -1))
      >>> affine.forward([1.0, 2.0], context=tf.constant([10.0, 20.0])).numpy()
      array([11., 22.], dtype=float32)
    """

    def __init__(
        self,
        conditioner: Any,
        event_ndims: int = 1,
        scale_map: str | ScaleMap = "clamp",
        name: str = "context_affine",
    ):
        parameters = dict(locals())
        if event_ndims < 1:
            raise ValueError(f"event_ndims must be 1 or more, got {event_ndims}.")
        self._scale_map = get_scale_map(scale_map)
        super().__init__(forward_min_event_ndims=event_ndims, parameters=parameters, name=name)
        self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as it was given."""
        return self._network.net

    def _forward_and_log_det(self, x, context):
        shift, log_scale = self._parameters_for(x, context)
        return x * tf.exp(log_scale) + shift, self._log_det(x, log_scale)

    def _inverse_and_log_det(self, y, context):
        shift, log_scale = self._parameters_for(y, context)
        return (y - shift) * tf.exp(-log_scale), -self._log_det(y, log_scale)

    def _parameters_for(self, value, context) -> tuple[tf.Tensor, tf.Tensor]:
        """Shift and log-scale, with dimensions of 1 for all of the event but its channels."""
        if context is None:
            raise ValueError(f"{self.name} needs a context: give context=...")
        context = tf.cast(context, value.dtype)
        raw = self._network(context, 1, 2 * value.shape[-1])
        for _ in range(self.forward_min_event_ndims - 1):
            raw = raw[..., tf.newaxis, :]
        shift, raw_scale = tf.split(raw, 2, axis=-1)
        return shift, self._scale_map(raw_scale)

    def _log_det(self, value, log_scale) -> tf.Tensor:
        axes = list(range(-self.forward_min_event_ndims, 0))
        return tf.reduce_sum(log_scale + tf.zeros_like(value), axis=axes)

    def _describe(self):
        return repr(self._network)
