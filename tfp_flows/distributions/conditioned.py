"""A conditional distribution whose context is given once and for all."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.copying import Copyable

tfd = tfp.distributions


class Conditioned(Copyable, tfd.Distribution):
    """`p(x | context)` as a plain distribution, whose batch shape is that of the context.

    Args:
      distribution: takes `context=` in `log_prob` and `sample`, and has a `context_shape`.
      context: `[*batch, *context_shape]`.
      name: name of the distribution.

    Raises:
      ValueError: the context has the wrong shape, or the distribution takes none.

    Example:
      >>> import tfp_flows as flows
      >>> flow = flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,), context_shape=(3,))
      >>> given = flow.condition(tf.zeros([5, 3]))
      >>> given.batch_shape, given.sample(4, seed=0).shape
      (TensorShape([5]), TensorShape([4, 5, 2]))
    """

    _TF_MODULE_IGNORED_PROPERTIES = tfd.Distribution._TF_MODULE_IGNORED_PROPERTIES | {"_parameters"}

    def __init__(self, distribution: tfd.Distribution, context, name: str | None = None):
        name = name or f"{distribution.name}_given_context"
        parameters = {"distribution": distribution, "context": context, "name": name}
        self._distribution = distribution
        self._context = distribution.checked_context(context)
        if self._context is None:
            raise ValueError(
                f"{distribution.name} takes no context: there is nothing to condition."
            )
        super().__init__(
            dtype=distribution.dtype,
            reparameterization_type=distribution.reparameterization_type,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @property
    def distribution(self) -> tfd.Distribution:
        """The conditional distribution."""
        return self._distribution

    @property
    def context(self) -> tf.Tensor:
        """What it is conditioned on."""
        return self._context

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def _event_shape(self):
        return self._distribution.event_shape

    def _event_shape_tensor(self):
        return self._distribution.event_shape_tensor()

    def _batch_shape(self):
        return self._context.shape[: self._batch_ndims()]

    def _batch_shape_tensor(self):
        return tf.shape(self._context)[: self._batch_ndims()]

    def _batch_ndims(self) -> int:
        return self._context.shape.rank - len(self._distribution.context_shape)

    def _call_log_prob(self, value, name, **kwargs):
        return self._distribution.log_prob(value, context=self._context, **kwargs)

    def _call_prob(self, value, name, **kwargs):
        return tf.exp(self._call_log_prob(value, name, **kwargs))

    def _call_unnormalized_log_prob(self, value, name, **kwargs):  # pinned joint models ask for it
        return self._call_log_prob(value, name, **kwargs)

    def _call_sample_n(self, sample_shape, seed, **kwargs):
        return self._distribution.sample(
            self._full_shape(sample_shape), seed=seed, context=self._context, **kwargs
        )

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        return self._distribution.experimental_sample_and_log_prob(
            self._full_shape(sample_shape), seed=seed, context=self._context, **kwargs
        )

    def _full_shape(self, sample_shape) -> tf.Tensor:
        sample_shape = tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
        return tf.concat([sample_shape, self.batch_shape_tensor()], 0)

    def __repr__(self) -> str:
        return f"Conditioned({self._distribution!r}, batch_shape={self.batch_shape})"

    __str__ = __repr__
