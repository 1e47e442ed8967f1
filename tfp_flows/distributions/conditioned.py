"""Distributions that take a context, and those conditioned on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import FlowBijector, private
from tfp_flows.core.delegating import Delegating
from tfp_flows.core.copying import Copyable
from tfp_flows.distributions.context import ContextSpec
from tfp_flows.distributions.density import Density
from tfp_flows.keras_engine import keras

tfd = tfp.distributions


class Conditional:
    """A mixin for distributions that take a `context`, which `_context` specifies."""

    _context: ContextSpec

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one example's context; None for a distribution that takes none."""
        return self._context.shape

    @property
    def context_dtype(self) -> tf.DType:
        """The dtype of contexts: int32 for labels, otherwise that of the (continuous) flow."""
        return self._context.dtype

    def validated_context(self, context: Any) -> tf.Tensor | None:
        """The context as a tensor of its dtype, or None for a distribution that takes none.

        Raises:
          ValueError: if it is missing, not wanted or of the wrong shape, or holds invalid labels.
        """
        return self._context.validated(context)

    def condition(self, context: Any) -> Conditioned:
        """This distribution given a context, as a plain distribution for TFP's pipelines.

        Its batch shape is that of the context: `context.shape` without `context_shape`.
        """
        return Conditioned(self, context)


class Conditioned(Copyable, Density, tfd.Distribution):
    """`p(x | context)` as a plain distribution, whose batch shape is that of the context.

    Args:
      distribution: a `Flow` or `Dequantized` that takes a context.
      context: `[*batch, *context_shape]`. A `tf.Variable` (or a `tfp.util.TransformedVariable`) is
        read at every call; it counts as a variable of the distribution, and gets a gradient.
      name: name of the distribution.

    Raises:
      ValueError: if the context has the wrong shape, or the distribution takes none.

    Example:
      >>> import tfp_flows as flows
      >>> flow = flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,), context_shape=(3,))
      >>> given = flow.condition(tf.zeros([5, 3]))
      >>> given.batch_shape, given.sample(4, seed=0).shape
      (TensorShape([5]), TensorShape([4, 5, 2]))
      >>> given[2:].batch_shape, given[0].batch_shape
      (TensorShape([3]), TensorShape([]))
    """

    def __init__(self, distribution: tfd.Distribution, context: Any, name: str | None = None):
        # A default name is not among the parameters: joint distributions give their own.
        parameters = {"distribution": distribution, "context": context, "name": name}
        name = name or f"{distribution.name}_given_context"
        validated = distribution.validated_context(context)
        if validated is None:
            raise ValueError(
                f"{distribution.name} takes no context: there is nothing to condition."
            )
        if isinstance(context, keras.Variable if hasattr(keras, "Variable") else ()):
            context = private.tf_variable(context)
        self._distribution = distribution
        is_variable = isinstance(context, tf.Variable | tfp.util.DeferredTensor)
        self._context = context if is_variable else validated
        super().__init__(
            dtype=distribution.dtype,
            reparameterization_type=distribution.reparameterization_type,
            validate_args=distribution.validate_args,
            allow_nan_stats=distribution.allow_nan_stats,
            parameters=parameters | {"context": self._context},
            name=name,
        )

    @property
    def distribution(self) -> tfd.Distribution:
        """The conditional distribution."""
        return self._distribution

    @property
    def context(self) -> tf.Tensor | tf.Variable:
        """The context, a variable if one was given."""
        return self._context

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        ndims = lambda self: len(self.distribution.context_shape)  # noqa: E731
        return {"context": tfp.util.ParameterProperties(event_ndims=ndims)}

    def _event_shape(self) -> tf.TensorShape:
        return self._distribution.event_shape

    def _event_shape_tensor(self) -> tf.Tensor:
        return self._distribution.event_shape_tensor()

    def _log_prob(self, value, **kwargs) -> tf.Tensor:
        return self._distribution.log_prob(value, context=self._context, **kwargs)

    def _call_sample_n(self, sample_shape, seed, **kwargs) -> tf.Tensor:
        return self._distribution.sample(
            self._full_shape(sample_shape), seed=seed, context=self._context, **kwargs
        )

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs) -> tuple[tf.Tensor, tf.Tensor]:
        return self._distribution.experimental_sample_and_log_prob(
            self._full_shape(sample_shape), seed=seed, context=self._context, **kwargs
        )

    def _full_shape(self, sample_shape: Any) -> tf.Tensor:
        sample_shape = tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
        return tf.concat([sample_shape, self.batch_shape_tensor()], 0)

    def _default_event_space_bijector(self) -> FlowBijector | None:
        bijector = self._distribution.experimental_default_event_space_bijector()
        if bijector is None:  # as for pixels
            return None

        def with_features(value, event_ndims):
            return self._distribution.with_features(value, event_ndims, self._context)

        return Given(bijector, with_features, owner=self)

    def __repr__(self) -> str:
        return f"Conditioned({self._distribution!r}, batch_shape={self.batch_shape})"

    __str__ = __repr__


class Given(Delegating):
    """A bijector with its context given by a function, which each call evaluates anew.

    Args:
      bijector: a bijector that takes a context.
      with_features: `(value, event_ndims) -> (value, features)`, broadcast to one batch shape.
      owner: holds the variables that `with_features` reads.
      name: name of the bijector.
    """

    def __init__(
        self,
        bijector: FlowBijector,
        with_features: Callable[[tf.Tensor, int], tuple[tf.Tensor, tf.Tensor]],
        owner: tf.Module,
        name: str = "given_context",
    ):
        parameters = dict(locals())
        self._given, self._owner = bijector, owner
        self._with_features = self._no_dependency(with_features)
        super().__init__(shapes=bijector, parameters=parameters, name=name)

    def _forward_and_log_det(self, x: tf.Tensor, context: None) -> tuple[tf.Tensor, tf.Tensor]:
        x, features = self._with_features(x, self.forward_min_event_ndims)
        return self._given.forward_and_log_det(x, context=features)

    def _inverse_and_log_det(self, y: tf.Tensor, context: None) -> tuple[tf.Tensor, tf.Tensor]:
        y, features = self._with_features(y, self.inverse_min_event_ndims)
        return self._given.inverse_and_log_det(y, context=features)

    def _describe(self) -> str:
        return repr(self._given)
