"""An affine layer whose parameters are computed from a context."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.transformers import Affine
from tfp_flows.transformers.affine import ScaleMap
from tfp_flows.transformers.base import split_params


class ContextAffine(FlowBijector):
    r"""Scales and shifts every channel by functions of the context alone.

    $$ y = x \odot e^{s(c)} + t(c), \qquad \log|\det J| = \textstyle\sum s(c) $$

    At the latent end of a flow it makes the prior depend on the context, as Glow's prior does on
    the class.

    Source: Glow, arXiv 1807.03039, and its authors' code.

    Args:
      conditioner: a Keras layer, `tf.Module` or function from contexts `[..., k]` to
        `[..., 2 * channels]`: first all shifts `t`, then what the scale map makes `s` of.
      event_ndims: rank of an event; its last dimension holds the channels.
      scale_map: from a parameter to `s`: `"exp_tanh"`, `"sigmoid"`, `"clamp"`, `"softplus"`, or
        your own function (register it with Keras to save whole models).
      name: name of the bijector.

    Raises:
      ValueError: if `event_ndims < 1`, `scale_map` is not a known name, or, on a call, there is no
        context.

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
        self._transformer = Affine(scale_map)
        super().__init__(forward_min_event_ndims=event_ndims, parameters=parameters, name=name)
        self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as it was given."""
        return self._network.net

    def _forward_and_log_det(self, x, context):
        y, log_slope = self._transformer.forward(x, self._condition(x, context))
        return y, self._log_det(x, log_slope)

    def _inverse_and_log_det(self, y, context):
        x, log_slope = self._transformer.inverse(y, self._condition(y, context))
        return x, self._log_det(y, log_slope)

    def _condition(self, value: tf.Tensor, context) -> tf.Tensor:
        """Runs the conditioner, once: the parameters `[..., 2, channels]`, which broadcast."""
        if context is None:
            raise ValueError(f"{self.name} needs a context: give context=...")
        channels = value.shape[-1]
        output = self._network(tf.cast(context, value.dtype), 1, 2 * channels)
        for _ in range(self.forward_min_event_ndims - 1):
            output = output[..., tf.newaxis, :]
        return split_params(output, 2, channels)

    def _log_det(self, value: tf.Tensor, log_slope: tf.Tensor) -> tf.Tensor:
        axes = list(range(-self.forward_min_event_ndims, 0))
        return tf.reduce_sum(log_slope + tf.zeros_like(value), axis=axes)

    def _describe(self):
        return repr(self._network)
