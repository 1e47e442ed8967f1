"""A flow: a base distribution transformed by a bijector, possibly given a context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Chain, Standardize
from tfp_flows.core import FlowBijector, Network, private
from tfp_flows.core.copying import Copyable
from tfp_flows.core.variables import FrozenByNetworks
from tfp_flows.distributions.conditioned import Conditional
from tfp_flows.distributions.context import ContextSpec
from tfp_flows.distributions.density import (
    Cumulative,
    Density,
    flat_log_prob,
    flat_sample,
    length_is_known,
    ranks_are_known,
)

tfb, tfd = tfp.bijectors, tfp.distributions


class Flow(
    FrozenByNetworks,
    Copyable,
    Conditional,
    Cumulative,
    Density,
    private.TransformedDistribution,
):
    r"""A `tfd.TransformedDistribution` that validates its arguments and takes a `context`.

    $$ \log p(y) = \log p_0(f^{-1}(y)) + \log|\det J_{f^{-1}}(y)| $$

    Values without a latent, on and beyond the bounds of a bijector such as `tfb.Sigmoid`, have
    log-density minus infinity and no gradient. That holds for bijectors of TFP and `fb.Logit` that
    are the bijector or parts of an `fb.Chain`. Extreme latents may round to values on a bound:
    `experimental_sample_and_log_prob` returns their log-density, `log_prob` cannot.

    Args:
      distribution: the base, a distribution over latents.
      bijector: from latent to data; any injective `tfb.Bijector`.
      context_shape: shape of one example's context; `()` for one number or label. None: the flow
        takes no context.
      context_encoder: a network (a Keras layer, a function) from contexts `[n, *context_shape]` to
        features `[n, width]`, which the conditioners get; None: they get the flattened context. It
        runs once per context, however many values there are. With a Keras Embedding contexts are
        labels; see `flows.with_labels`.
      standardize_context: whether contexts are standardised by the mean and standard deviation of
        each entry of their last axis, as `flows.initialize` (or the first `fit`) finds them; until
        then they are used unchanged. None: yes, unless there is a `context_encoder`, which may
        read indices, times or a mask. Labels never are. An `fb.Standardize` of another flow shares
        that flow's constants.
      name: name of the distribution. None: its `kind`, and in a joint distribution the name of its
        argument, as for distributions of TFP.
      kind: what error messages call a flow without a name.

    A conditional flow takes `context=`, `[..., *context_shape]`, in addition to TFP's arguments.
    Its batch dimensions broadcast with those of the values (or with the sample shape).
    `condition(context)` returns a plain distribution.

    Raises:
      ValueError: if `context_shape` has unknown or empty sizes; if there is an encoder without it;
        if a conditional flow's base has a batch shape or takes a context itself.

    Raises (from `log_prob`, `prob`, `sample`):
      TypeError: if the values are integers.
      ValueError: if the values do not have the event shape, or if a context is missing, has the
        wrong shape, or is passed to a flow that takes none.

    Example:
      >>> flow = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfb.Scale(2.0))
      >>> float(flow.log_prob([0.0, 0.0]))
      -3.22417...
    """

    def __init__(
        self,
        distribution: tfd.Distribution,
        bijector: tfb.Bijector,
        context_shape: Sequence[int] | int | None = None,
        context_encoder: Any = None,
        standardize_context: bool | Standardize | None = None,
        name: str | None = None,
        kind: str = "flow",
    ):
        given_name, name = name, name or kind
        if context_encoder is not None and context_shape is None:
            raise ValueError(f"{name}: a context_encoder needs a context_shape.")
        if context_shape is not None and distribution.batch_shape.rank:
            raise ValueError(
                f"{name}: the base of a conditional flow is one distribution, and its batch shape "
                f"is that of the context; got {distribution.batch_shape} of them. If they are the "
                "parts of one event, wrap the base in tfd.Independent."
            )
        if getattr(distribution, "context_shape", None) is not None:
            raise ValueError(
                f"{name}: the base takes a context itself, which a flow does not pass on. Give the "
                "base's bijectors to this flow, fb.Chain([*these, *the base's]), or put an "
                "fb.ContextAffine at the latent end."
            )
        self._context = ContextSpec(
            context_shape, distribution.dtype, name, context_encoder, standardize_context
        )
        parameters = {
            "distribution": distribution,
            "bijector": bijector,
            "context_shape": context_shape,
            "context_encoder": context_encoder,
            "standardize_context": self._context.standardizer or standardize_context,
            "name": given_name,
            "kind": kind,
        }
        super().__init__(
            distribution,
            bijector if isinstance(bijector, FlowBijector) else Chain([bijector]),
            kwargs_split_fn=self._no_dependency(self._split_arguments),
            parameters=parameters,
            name=name,
        )

    def _split_arguments(self, kwargs: dict[str, Any]) -> tuple[dict, dict]:
        """The arguments of the base and of the bijector, in methods that are TFP's own."""
        features = self.encode_context(kwargs.get("context"))
        return {}, {} if features is None else {"context": features}

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes)

    @property
    def context_encoder(self) -> Network | None:
        """The network from contexts to the features that conditioners get."""
        return self._context.encoder

    @property
    def context_standardizer(self) -> Standardize | None:
        """The bijector that standardises contexts; None if they are used unchanged."""
        return self._context.standardizer

    def encode_context(self, context: Any) -> tf.Tensor | None:
        """The features of a context, `[..., width]`, which the conditioners get.

        For `bijector.forward(z, context=features)` and the like; the flow's own methods call it.
        """
        return self._context.features(self._context.validated(context))

    def initialize_context(self, context: Any) -> None:
        """Sets location and scale of the context's standardizer, unless that is done.

        `flows.initialize` calls it.

        Args:
          context: `[..., *context_shape]`.
        """
        self._context.initialize(self._context.validated(context))

    def with_features(
        self, value: tf.Tensor, event_ndims: int, context: Any
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Values, and the features of the context, broadcast to one batch shape."""
        return self._broadcast(value, event_ndims, self.encode_context(context))

    def _broadcast(
        self, value: tf.Tensor, event_ndims: int, features: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        if features is None:
            return value, None
        return self._context.broadcast(value, event_ndims, features)

    def _log_prob(self, value, context=None) -> tf.Tensor:
        value = tf.convert_to_tensor(value, dtype_hint=self.dtype)
        if not value.dtype.is_floating:
            raise TypeError(
                f"{self.name} is a density over continuous values, got {value.dtype.name}. Wrap "
                "integer pixels: flows.Dequantized(flow, levels=...); cast what is continuous."
            )
        value = tf.cast(value, self.dtype)
        context = self._context.validated(context)
        if not ranks_are_known(value, context):
            return flat_log_prob(self, value, context)
        ndims = len(self.event_shape)
        event = value.shape[-ndims:] if ndims else ()
        if not self.event_shape.is_compatible_with(event):  # TFP would broadcast it
            raise ValueError(
                f"{self.name} has event shape {tuple(self.event_shape)}, got values of shape "
                f"{value.shape}; the last dimensions must be the event's."
            )
        value, features = self._broadcast(value, ndims, self._context.features(context))
        latent, log_det, inside = self.bijector.inverse_within(value, ndims, features)
        log_prob = self.distribution.log_prob(latent) + log_det
        return log_prob if inside is None else tf.where(inside, log_prob, -math.inf)

    def _call_sample_n(self, sample_shape, seed, context=None) -> tf.Tensor:
        context = self._context.validated(context)
        if not (length_is_known(sample_shape) and ranks_are_known(context)):
            return flat_sample(self, self.sample, sample_shape, seed, context)
        sample_shape, features = self._sample_shape_and_features(sample_shape, context)
        latent = self.distribution.sample(sample_shape, seed)
        return self._to_data(latent, features)[0]

    def _sample_and_log_prob(self, sample_shape, seed, context=None) -> tuple[tf.Tensor, tf.Tensor]:
        context = self._context.validated(context)
        if not (length_is_known(sample_shape) and ranks_are_known(context)):
            draw = self.experimental_sample_and_log_prob
            return flat_sample(self, draw, sample_shape, seed, context)
        sample_shape, features = self._sample_shape_and_features(sample_shape, context)
        latent, log_prob = self.distribution.experimental_sample_and_log_prob(sample_shape, seed)
        value, log_det = self._to_data(latent, features)
        return value, log_prob - log_det

    def _sample_shape_and_features(
        self, sample_shape: Any, context: tf.Tensor | None
    ) -> tuple[Any, tf.Tensor | None]:
        features = self._context.features(context)
        if features is None:
            return sample_shape, None
        return self._context.sample_shape(sample_shape, features), features

    def _to_data(
        self, latent: tf.Tensor, features: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        ndims = len(self.distribution.event_shape)
        _, features = self._broadcast(latent, ndims, features)
        return self.bijector.forward_and_log_det(latent, ndims, features)

    def _default_event_space_bijector(self) -> tfb.Bijector | None:
        base = self.distribution.experimental_default_event_space_bijector()
        return None if base is None else Chain([self.bijector, base])

    def __repr__(self) -> str:
        return (
            f"Flow('{self.name}', event_shape={tuple(self.event_shape)}, "
            f"dtype={self.dtype.name}, bijector={self.bijector!r})"
        )

    __str__ = __repr__
