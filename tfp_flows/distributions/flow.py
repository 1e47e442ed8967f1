"""A flow: a base distribution seen through a bijector."""

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
from tfp_flows.distributions.conditioned import Conditioned
from tfp_flows.distributions.context import ContextPort, unmerged
from tfp_flows.distributions.density import (
    Density,
    flat_log_prob,
    flat_sample,
    length_is_known,
    ranks_are_known,
)
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions


class Flow(FrozenByNetworks, Copyable, Density, private.TransformedDistribution):
    r"""A `tfd.TransformedDistribution` that checks what comes in and takes a `context`.

    $$ \log p(y) = \log p_0(f^{-1}(y)) + \log|\det J_{f^{-1}}(y)| $$

    Where data have no latent, on and beyond the bounds of a bijector as `tfb.Sigmoid`, the
    log-density is minus infinity, without a gradient. That holds for bijectors of TFP and
    `fb.Logit` that are the bijector or parts of an `fb.Chain`. Latents far out may round to data on
    a bound: `experimental_sample_and_log_prob` gives their log-density, `log_prob` cannot.

    Args:
      distribution: the base, over latents.
      bijector: from latent to data; any injective `tfb.Bijector`.
      context_shape: shape of one example's context, for a bijector that is conditioned; `()` is
        one number or label. None: the flow takes no context.
      context_encoder: a network (a Keras layer, a function) from contexts `[n, *context_shape]` to
        the vectors `[n, width]` that the conditioners get; None: they get the context itself,
        flat. It runs once for each context that is given, whatever the number of values. With an
        Embedding of Keras contexts are labels, see `flows.with_labels`.
      standardize_context: whether contexts are standardised by the mean and the standard deviation
        of those that `flows.initialize` (or the first `fit`) sees, for each entry of their last
        axis (see `fb.Standardize`); until then they are taken as they come. None: yes, unless a
        `context_encoder` takes them, which may read their values as indices, times or a mask.
        Labels never are. The `fb.Standardize` of another flow stands for its constants.
      name: name of the distribution. None: it is called by its `kind`, and a joint distribution
        names it by its place, as it does those of TFP.
      kind: what messages call a flow without a name.

    A conditional flow takes `context=` besides TFP's own arguments, `[..., *context_shape]`. Its
    batch dimensions and those of the values (or the sample shape) broadcast; `condition(context)`
    gives a plain distribution.

    Raises:
      ValueError: a `context_shape` of unknown or empty sizes; an encoder without one; a base that
        takes a context itself, or has a batch shape beside one.

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
        standardize_context: bool | Standardize | None = None,
        name: str | None = None,
        kind: str = "flow",
    ):
        given_name = name
        name = name or kind
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
                f"{name}: the base takes a context itself, which a flow does not hand on. Give the "
                "base's bijectors to this flow, fb.Chain([*these, *the base's]), or put an "
                "fb.ContextAffine at the latent end."
            )
        self._encoder = None
        if context_encoder is not None:
            self._encoder = Network(context_encoder, name=f"{name}_context_encoder")
        is_table = isinstance(context_encoder, keras.layers.Embedding)
        classes = context_encoder.input_dim if is_table else None
        self._context = self._no_dependency(
            ContextPort(context_shape, distribution.dtype, classes, name)
        )
        self._context_units = self._units(standardize_context)
        parameters = {
            "distribution": distribution,
            "bijector": bijector,
            "context_shape": context_shape,
            "context_encoder": context_encoder,
            "standardize_context": self._context_units or standardize_context,
            "name": given_name,
            "kind": kind,
        }
        if not isinstance(bijector, FlowBijector):
            bijector = Chain([bijector])
        super().__init__(
            distribution,
            bijector,
            kwargs_split_fn=self._no_dependency(self._split_arguments),
            parameters=parameters,
            name=name,
        )

    def _split_arguments(self, kwargs: dict[str, Any]) -> tuple[dict, dict]:
        """For the methods that are TFP's own: what goes to the base, and to the bijector."""
        features = self.encode_context(kwargs.get("context"))
        return {}, {} if features is None else {"context": features}

    def _units(self, asked: bool | Standardize | None) -> Standardize | None:
        """What standardises contexts; None if nothing does."""
        if isinstance(asked, Standardize):
            return asked
        if asked not in (None, True, False):
            raise TypeError(
                "standardize_context must be True, False, None or an fb.Standardize, got "
                f"{asked!r}."
            )
        shape, dtype = self.context_shape, self.context_dtype
        wanted = self._encoder is None if asked is None else asked
        if not wanted or shape is None or not dtype.is_floating:
            return None
        return Standardize(shape[-1] if shape else 1, dtype, name="context_units")

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

    @property
    def context_units(self) -> Standardize | None:
        """What standardises contexts; None if they are taken as they are."""
        return self._context_units

    def _call_log_prob(self, value, name, **kwargs):
        # TFP would cast integers silently.
        value = tf.convert_to_tensor(value, dtype_hint=self.dtype)
        if not value.dtype.is_floating:
            raise TypeError(
                f"{self.name} is a density over continuous values, got {value.dtype.name}. Wrap "
                "integer pixels: flows.Dequantized(flow, levels=...); cast what is continuous."
            )
        value = tf.cast(value, self.dtype)
        context = self.checked_context(kwargs.get("context"))
        kwargs = kwargs | {"context": context}
        if not ranks_are_known(value, context):
            return flat_log_prob(self, value, **kwargs)
        return super()._call_log_prob(value, name, **kwargs)

    def _log_prob(self, value, context=None):
        ndims = len(self.event_shape)
        event = value.shape[-ndims:] if ndims else ()
        if not self.event_shape.is_compatible_with(event):  # TFP would broadcast it
            raise ValueError(
                f"{self.name} has event shape {tuple(self.event_shape)}, got values of shape "
                f"{value.shape}; the last dimensions must be the event's."
            )
        value, features = self.with_features(value, ndims, context)
        latent, log_det, inside = self.bijector.inverse_within(value, ndims, features)
        log_prob = self.distribution.log_prob(latent) + log_det
        return log_prob if inside is None else tf.where(inside, log_prob, -math.inf)

    def _cdf(self, y, context=None):
        return self._cumulative(y, context, "cdf", "survival_function", (0.0, 1.0))

    def _survival_function(self, y, context=None):
        return self._cumulative(y, context, "survival_function", "cdf", (1.0, 0.0))

    def _log_cdf(self, y, context=None):
        ends = -math.inf, 0.0
        return self._cumulative(y, context, "log_cdf", "log_survival_function", ends)

    def _log_survival_function(self, y, context=None):
        ends = 0.0, -math.inf
        return self._cumulative(y, context, "log_survival_function", "log_cdf", ends)

    def _cumulative(self, y, context, rising: str, falling: str, ends: tuple[float, float]):
        """A function of the base's, and its values below and above the support."""
        y, features = self.with_features(y, 0, context)
        given = {} if features is None else {"context": features}
        increasing = private.is_increasing(self.bijector, **given)
        latent, _, inside = self.bijector.inverse_within(y, 0, **given)
        base = self.distribution
        found = tf.where(increasing, getattr(base, rising)(latent), getattr(base, falling)(latent))
        if inside is None:
            return found
        is_below = y < self.bijector.forward(latent, **given)  # which is in the support
        return tf.where(inside, found, tf.where(is_below, *(tf.constant(e, y.dtype) for e in ends)))

    def encode_context(self, context) -> tf.Tensor | None:
        """What the conditioners get: the context's features, `[..., width]`.

        For `bijector.forward(z, context=...)` and its like; the flow's own methods call it.
        """
        context = self.checked_context(context)
        if context is None:
            return None
        context = self._standardized(context)
        if self._encoder is None:
            return self._context.vectors(context)
        features = self._encoder.features(self._context.merged(context))
        if not tf.is_tensor(features) or features.shape.rank != 2:
            found = getattr(features, "shape", type(features).__name__)
            raise ValueError(
                f"{self.name}: the context_encoder must map [n, *{self.context_shape}] to vectors "
                f"[n, width]; it returned {found}. End it with a pooling or Flatten layer, or a "
                "recurrent layer that returns its last output."
            )
        features = tf.cast(features, self.distribution.dtype)
        return unmerged(features, context, len(self.context_shape))

    def with_features(
        self, value: tf.Tensor, event_ndims: int, context
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Values, and the features of the context, with one common batch shape."""
        features = self.encode_context(context)
        if features is None:
            return value, None
        return self._context.broadcast(value, event_ndims, features)

    def _standardized(self, context: tf.Tensor) -> tf.Tensor:
        if self._context_units is None:
            return context
        channels = context if self.context_shape else context[..., tf.newaxis]
        channels, _ = self._context_units.inverse_and_log_det(channels)
        return channels if self.context_shape else channels[..., 0]

    def initialize_context(self, context) -> None:
        """Sets what contexts are standardised by, unless that is done; `initialize` calls it.

        Args:
          context: `[..., *context_shape]`.
        """
        context = self.checked_context(context)
        if self._context_units is not None:
            self._context_units.initialize(context if self.context_shape else context[..., None])

    def _call_sample_n(self, sample_shape, seed, context=None):
        context = self.checked_context(context)
        if not (length_is_known(sample_shape) and ranks_are_known(context)):
            return flat_sample(self, self.sample, sample_shape, seed, context)
        features = self.encode_context(context)
        if features is None:
            return super()._call_sample_n(sample_shape, seed)
        latent = self.distribution.sample(self._context.sample_shape(sample_shape, features), seed)
        return self.bijector.forward(latent, context=self._spread(features, latent))

    def _sample_and_log_prob(self, sample_shape, seed, context=None):
        context = self.checked_context(context)
        if not (length_is_known(sample_shape) and ranks_are_known(context)):
            draw = self.experimental_sample_and_log_prob
            return flat_sample(self, draw, sample_shape, seed, context)
        features = self.encode_context(context)
        if features is not None:
            sample_shape = self._context.sample_shape(sample_shape, features)
        latent, log_prob = self.distribution.experimental_sample_and_log_prob(sample_shape, seed)
        if features is not None:
            features = self._spread(features, latent)
        event_ndims = len(self.distribution.event_shape)
        value, log_det = self.bijector.forward_and_log_det(latent, event_ndims, features)
        return value, log_prob - log_det

    def _spread(self, features: tf.Tensor, latent: tf.Tensor) -> tf.Tensor:
        """Features for each latent."""
        return self._context.broadcast(latent, len(self.distribution.event_shape), features)[1]

    def _default_event_space_bijector(self):
        base = self.distribution.experimental_default_event_space_bijector()
        return None if base is None else Chain([self.bijector, base])

    def __repr__(self) -> str:
        return (
            f"Flow('{self.name}', event_shape={tuple(self.event_shape)}, "
            f"dtype={self.dtype.name}, bijector={self.bijector!r})"
        )

    __str__ = __repr__
