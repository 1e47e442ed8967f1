"""What distributions share: densities, assertions, tensors whose rank is known at run time only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import private
from tfp_flows.core.shapes import flat_batch, restored, spread

tfd = tfp.distributions


class Density:
    """A mixin for distributions whose `_log_prob` gets values exactly as they were passed.

    TFP casts values to the dtype of the distribution first, integers included, so a distribution
    could not tell integer pixels from continuous values.
    """

    _TF_MODULE_IGNORED_PROPERTIES = tfd.Distribution._TF_MODULE_IGNORED_PROPERTIES | {"_parameters"}

    def _call_log_prob(self, value, name: str, **kwargs) -> tf.Tensor:
        with self._name_and_control_scope(name):
            return self._log_prob(value, **kwargs)

    def _call_prob(self, value, name: str, **kwargs) -> tf.Tensor:
        return tf.exp(self._call_log_prob(value, name, **kwargs))

    def _prob(self, value, **kwargs) -> tf.Tensor:
        return tf.exp(self._log_prob(value, **kwargs))

    def _call_unnormalized_log_prob(self, value, name: str, **kwargs) -> tf.Tensor:
        # Pinned joint distributions of TFP call it.
        return self._call_log_prob(value, name, **kwargs)


class Cumulative:
    """A mixin for scalar flows: cumulative functions by those of the base."""

    def _cdf(self, y, context=None) -> tf.Tensor:
        return self._from_base(y, context, "cdf", "survival_function", (0.0, 1.0))

    def _survival_function(self, y, context=None) -> tf.Tensor:
        return self._from_base(y, context, "survival_function", "cdf", (1.0, 0.0))

    def _log_cdf(self, y, context=None) -> tf.Tensor:
        outside = -math.inf, 0.0
        return self._from_base(y, context, "log_cdf", "log_survival_function", outside)

    def _log_survival_function(self, y, context=None) -> tf.Tensor:
        outside = 0.0, -math.inf
        return self._from_base(y, context, "log_survival_function", "log_cdf", outside)

    def _from_base(
        self, y, context, increasing: str, decreasing: str, outside: tuple[float, float]
    ) -> tf.Tensor:
        """A cumulative function by a method of the base.

        Args:
          y: values.
          context: their context.
          increasing, decreasing: methods of the base, by whether the bijector increases.
          outside: the function below and above the support.
        """
        y, features = self.with_features(y, 0, context)
        kwargs = {} if features is None else {"context": features}
        is_increasing = private.is_increasing(self.bijector, **kwargs)
        latent, _, inside = self.bijector.inverse_within(y, 0, **kwargs)
        values = [getattr(self.distribution, m)(latent) for m in (increasing, decreasing)]
        found = tf.where(is_increasing, *values)
        if inside is None:
            return found
        ends = [tf.constant(value, y.dtype) for value in outside]
        is_below = y < self.bijector.forward(latent, **kwargs)  # which is in the support
        return tf.where(inside, found, tf.where(is_below, *ends))


def assert_none(
    invalid: tf.Tensor, message: str, details: Callable[[], str] = str
) -> list[tf.Operation]:
    """Asserts that no entry of a boolean tensor is true; in a graph returns assertions to run.

    Raises:
      ValueError: in eager mode, if one is true, with the message, how many are, and the details.
    """
    count = tf.math.count_nonzero(invalid)
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(tf.equal(count, 0), [message])]
    if count:
        raise ValueError(f"{message} Invalid: {int(count)} of {int(tf.size(invalid))}.{details()}")
    return []


def ranks_are_known(*tensors: tf.Tensor | None) -> bool:
    """Whether each of them that is not None has a known number of dimensions."""
    return all(t is None or t.shape.rank is not None for t in tensors)


def length_is_known(sample_shape: Any) -> bool:
    """Whether a sample shape has a known number of dimensions."""
    if not tf.is_tensor(sample_shape):
        return True
    shape = sample_shape.shape
    return shape.rank == 0 or (shape.rank == 1 and shape[0] is not None)


def flat_log_prob(
    distribution: tfd.Distribution, value: tf.Tensor, context: tf.Tensor | None, **kwargs
) -> tf.Tensor:
    """`distribution.log_prob(value, context=context)`, with one dimension for all examples."""
    batch_shape = distribution.batch_shape
    event, name = batch_shape + distribution.event_shape, distribution.name
    flat, batch = flat_batch(value, event, name)
    if context is not None:
        _, context_batch = flat_batch(context, distribution.context_shape, name)
        batch = tf.broadcast_dynamic_shape(batch, context_batch)
        flat = spread(value, batch, event)
        kwargs["context"] = spread(context, batch, distribution.context_shape)
    return restored(distribution.log_prob(flat, **kwargs), batch)


def flat_sample(
    distribution: tfd.Distribution,
    draw: Callable,
    sample_shape: Any,
    seed: Any,
    context: tf.Tensor | None,
) -> Any:
    """`draw(sample_shape, seed, context=context)`, with one dimension for all examples.

    Args:
      distribution: the distribution to draw from.
      draw: its `sample` or `experimental_sample_and_log_prob`.
      sample_shape, seed, context: arguments of `draw`.
    """
    batch, kwargs = tf.reshape(tf.cast(sample_shape, tf.int32), [-1]), {}
    if context is not None:
        shape = distribution.context_shape
        batch = tf.broadcast_dynamic_shape(batch, flat_batch(context, shape, distribution.name)[1])
        kwargs["context"] = spread(context, batch, shape)
    drawn = draw(tf.reduce_prod(batch, keepdims=True), seed=seed, **kwargs)
    return tf.nest.map_structure(lambda t: restored(t, batch), drawn)
