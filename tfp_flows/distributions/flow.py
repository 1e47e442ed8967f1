"""A flow: a base distribution seen through a bijector."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

# `tfd.TransformedDistribution(...)` makes one of these where the bijector is, as ours, no
# composite tensor; the public class turns every subclass into one.
from tensorflow_probability.python.distributions.transformed_distribution import (
    _TransformedDistribution,
)

from tfp_flows.bijectors import Chain
from tfp_flows.core import FlowBijector

tfb, tfd = tfp.bijectors, tfp.distributions


class Flow(_TransformedDistribution):
    r"""A `tfd.TransformedDistribution` that checks what comes in and takes a `context`.

    $$ \log p(y) = \log p_0(f^{-1}(y)) + \log|\det J_{f^{-1}}(y)| $$

    Args:
      distribution: the base, over latents.
      bijector: from latent to data; any injective `tfb.Bijector`.
      name: name of the distribution.

    Methods take `context=` besides TFP's own arguments, for bijectors that are conditioned.

    Raises (from `log_prob`, `prob`):
      TypeError: the values are integers.
      ValueError: the values do not have the event shape.

    Example:
      >>> flow = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfb.Scale(2.0))
      >>> float(flow.log_prob([0.0, 0.0]))
      -3.22417...
    """

    _TF_MODULE_IGNORED_PROPERTIES = tfd.Distribution._TF_MODULE_IGNORED_PROPERTIES | {"_parameters"}

    def __init__(
        self,
        distribution: tfd.Distribution,
        bijector: tfb.Bijector,
        name: str = "flow",
    ):
        parameters = dict(locals())
        if not isinstance(bijector, FlowBijector):
            bijector = Chain([bijector])
        super().__init__(
            distribution,
            bijector,
            kwargs_split_fn=_split_context,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return tfd.TransformedDistribution._parameter_properties(dtype, num_classes)

    def _call_log_prob(self, value, name, **kwargs):
        # TFP would cast integers in silence, and broadcast what has the wrong shape.
        value = tf.convert_to_tensor(value, dtype_hint=self.dtype)
        if not value.dtype.is_floating:
            raise TypeError(
                f"{self.name} is a density over continuous values, got {value.dtype.name}. Wrap "
                "integer pixels: flows.Dequantized(flow, levels=...); cast what is continuous."
            )
        event = value.shape[-len(self.event_shape) :] if len(self.event_shape) else ()
        if not self.event_shape.is_compatible_with(event):
            raise ValueError(
                f"{self.name} has event shape {tuple(self.event_shape)}, got values of shape "
                f"{value.shape}; the last dimensions must be the event's."
            )
        return super()._call_log_prob(tf.cast(value, self.dtype), name, **kwargs)

    def _call_prob(self, value, name, **kwargs):
        return tf.exp(self._call_log_prob(value, name, **kwargs))

    def _log_prob(self, value, context=None):
        latent, log_det = self.bijector.inverse_and_log_det(value, len(self.event_shape), context)
        return self.distribution.log_prob(latent) + log_det

    def _sample_and_log_prob(self, sample_shape, seed, context=None):
        latent, log_prob = self.distribution.experimental_sample_and_log_prob(sample_shape, seed)
        event_ndims = len(self.distribution.event_shape)
        value, log_det = self.bijector.forward_and_log_det(latent, event_ndims, context)
        return value, log_prob - log_det

    def __repr__(self) -> str:
        return (
            f"Flow('{self.name}', event_shape={tuple(self.event_shape)}, "
            f"dtype={self.dtype.name}, bijector={self.bijector!r})"
        )

    __str__ = __repr__


def _split_context(kwargs: dict) -> tuple[dict, dict]:
    unknown = set(kwargs) - {"context"}
    if unknown:
        raise TypeError(f"Unknown argument(s) {sorted(unknown)}; a flow takes `context`.")
    return {}, {k: v for k, v in kwargs.items() if v is not None}
