"""What follows from a log-density, and tensors whose rank is known only at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.shapes import flat_batch, restored, spread


class Density:
    """`prob` and `unnormalized_log_prob` of a `tfd.Distribution` that checks values in `log_prob`.

    TFP's own would cast the values first, integers included.
    """

    def _prob(self, value, **kwargs):
        return tf.exp(self._log_prob(value, **kwargs))

    def _call_prob(self, value, name, **kwargs):
        return tf.exp(self._call_log_prob(value, name, **kwargs))

    def _call_unnormalized_log_prob(self, value, name, **kwargs):  # pinned joint models ask for it
        return self._call_log_prob(value, name, **kwargs)


tfd = tfp.distributions


def ranks_are_known(*tensors: tf.Tensor | None) -> bool:
    """Whether each of them that is not None has a known number of dimensions."""
    return all(t is None or t.shape.rank is not None for t in tensors)


def length_is_known(sample_shape: Any) -> bool:
    """Whether a sample shape has a known number of dimensions."""
    if not tf.is_tensor(sample_shape):
        return True
    shape = sample_shape.shape
    return shape.rank == 0 or (shape.rank == 1 and shape[0] is not None)


def flat_log_prob(distribution: tfd.Distribution, value, context, **kwargs) -> tf.Tensor:
    """`distribution.log_prob(value, context=context)`, with one dimension for all examples."""
    batch_shape = distribution.batch_shape
    event, name = batch_shape + distribution.event_shape, distribution.name
    flat, batch = flat_batch(value, event, name)
    if context is not None:
        kwargs["context"], own = flat_batch(context, distribution.context_shape, name)
        batch = tf.broadcast_dynamic_shape(batch, own)
        flat = spread(value, batch, event)
        kwargs["context"] = spread(context, batch, distribution.context_shape)
    return restored(distribution.log_prob(flat, **kwargs), batch)


def flat_sample(distribution: tfd.Distribution, draw: Callable, sample_shape, seed, context):
    """`draw(sample_shape, seed, context=context)`, with one dimension for all examples.

    Args:
      distribution: what is drawn from.
      draw: its `sample` or `experimental_sample_and_log_prob`.
      sample_shape, seed, context: its arguments.
    """
    batch, kwargs = tf.reshape(tf.cast(sample_shape, tf.int32), [-1]), {}
    if context is not None:
        shape = distribution.context_shape
        batch = tf.broadcast_dynamic_shape(batch, flat_batch(context, shape, distribution.name)[1])
        kwargs["context"] = spread(context, batch, shape)
    drawn = draw(tf.reduce_prod(batch, keepdims=True), seed=seed, **kwargs)
    return tf.nest.map_structure(lambda t: restored(t, batch), drawn)
