"""A flow: a base distribution seen through a bijector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

# `tfd.TransformedDistribution(...)` makes one of these where the bijector is, as ours, no
# composite tensor; the public class turns every subclass into one.
from tensorflow_probability.python.distributions.transformed_distribution import (
    _TransformedDistribution,
)

from tfp_flows.bijectors import Chain
from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.copying import Copyable
from tfp_flows.distributions.conditioned import Conditioned
from tfp_flows.distributions.context import ContextPort
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions


class Flow(Copyable, _TransformedDistribution):
    r"""A `tfd.TransformedDistribution` that checks what comes in and takes a `context`.

    $$ \log p(y) = \log p_0(f^{-1}(y)) + \log|\det J_{f^{-1}}(y)| $$

    Args:
      distribution: the base, over latents.
      bijector: from latent to data; any injective `tfb.Bijector`.
      context_shape: shape of one example's context, for a bijector that is conditioned; `()` is
        one number or label. None: the flow takes no context.
      context_encoder: a network (a Keras layer, a function) from contexts to the vectors that
        the conditioners get; None: they get the context itself, flat. With an Embedding of Keras
        contexts are labels, see `flows.with_labels`.
      name: name of the distribution.

    A conditional flow takes `context=` besides TFP's own arguments, `[..., *context_shape]`. Its
    batch dimensions and those of the values (or the sample shape) broadcast; `condition(context)`
    gives a plain distribution.

    Raises (from `log_prob`, `prob`, `sample`):
      TypeError: the values are integers.
      ValueError: the values do not have the event shape; a context is missing, has the wrong
        shape, or is given to a flow that takes none.

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
        context_shape: Sequence[int] | int | None = None,
        context_encoder: Any = None,
        name: str = "flow",
    ):
        parameters = dict(locals())
        if context_encoder is not None and context_shape is None:
            raise ValueError(f"{name}: a context_encoder needs a context_shape.")
        self._encoder = None
        if context_encoder is not None:
            self._encoder = Network(context_encoder, name=f"{name}_context_encoder")
        is_table = isinstance(context_encoder, keras.layers.Embedding)
        classes = context_encoder.input_dim if is_table else None
        self._context = self._no_dependency(
            ContextPort(context_shape, distribution.dtype, classes, name)
        )
        if not isinstance(bijector, FlowBijector):
            bijector = Chain([bijector])
        super().__init__(
            distribution,
            bijector,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return tfd.TransformedDistribution._parameter_properties(dtype, num_classes)

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one example's context; None for a flow that takes none."""
        return self._context.shape

    @property
    def context_dtype(self) -> tf.DType:
        """The dtype of contexts: whole numbers for labels, else that of the flow."""
        return self._context.dtype

    @property
    def context_encoder(self) -> Network | None:
        """What turns contexts into the vectors that conditioners get."""
        return self._encoder

    def checked_context(self, context) -> tf.Tensor | None:
        """The context as a tensor; raises ValueError if it is missing, unwanted or misshaped."""
        return self._context.checked(context)

    def condition(self, context) -> Conditioned:
        """This flow given a context, as a plain distribution for TFP's pipelines.

        Its batch shape is that of the context: `context.shape` without `context_shape`.
        """
        return Conditioned(self, context)

    def _call_log_prob(self, value, name, context=None):
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
        context = self.checked_context(context)
        return super()._call_log_prob(tf.cast(value, self.dtype), name, context=context)

    def _call_prob(self, value, name, **kwargs):
        return tf.exp(self._call_log_prob(value, name, **kwargs))

    def _call_unnormalized_log_prob(self, value, name, **kwargs):  # pinned joint models ask for it
        return self._call_log_prob(value, name, **kwargs)

    def _log_prob(self, value, context=None):
        ndims = len(self.event_shape)
        if context is not None:
            value, context = self._context.broadcast(value, ndims, context)
            context = self.encode_context(context)
        latent, log_det = self.bijector.inverse_and_log_det(value, ndims, context)
        return self.distribution.log_prob(latent) + log_det

    def encode_context(self, context) -> tf.Tensor | None:
        """What the conditioners get: the context's features, `[..., width]`.

        For `bijector.forward(z, context=...)` and its like; the flow's own methods call it.
        """
        context = self.checked_context(context)
        if context is None:
            return None
        if self._encoder is not None:
            return tf.cast(self._encoder.features(context), self.distribution.dtype)
        return self._context.flat(context)

    def _call_sample_n(self, sample_shape, seed, context=None):
        context = self.checked_context(context)
        if context is None:
            return super()._call_sample_n(sample_shape, seed)
        latent = self.distribution.sample(self._context.sample_shape(sample_shape, context), seed)
        _, context = self._context.broadcast(latent, len(self.distribution.event_shape), context)
        return self.bijector.forward(latent, context=self.encode_context(context))

    def _sample_and_log_prob(self, sample_shape, seed, context=None):
        context = self.checked_context(context)
        event_ndims = len(self.distribution.event_shape)
        if context is not None:
            sample_shape = self._context.sample_shape(sample_shape, context)
        latent, log_prob = self.distribution.experimental_sample_and_log_prob(sample_shape, seed)
        if context is not None:
            _, context = self._context.broadcast(latent, event_ndims, context)
            context = self.encode_context(context)
        value, log_det = self.bijector.forward_and_log_det(latent, event_ndims, context)
        return value, log_prob - log_det

    def __repr__(self) -> str:
        return (
            f"Flow('{self.name}', event_shape={tuple(self.event_shape)}, "
            f"dtype={self.dtype.name}, bijector={self.bijector!r})"
        )

    __str__ = __repr__
