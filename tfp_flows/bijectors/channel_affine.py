"""Neighbouring ActNorm and 1x1 convolutions as one small matrix, one product."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import FlowBijector

tfb = tfp.bijectors


class ChannelMap(NamedTuple):
    """The map `x -> (x - before) weight + after` of channel vectors; None stands for 0.

    A weight of rank 1 is a diagonal.
    """

    before: tf.Tensor | None
    weight: tf.Tensor
    after: tf.Tensor | None
    log_det: tf.Tensor

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        if self.before is not None:
            x = x - self.before
        x = _times(x, self.weight)
        return x if self.after is None else x + self.after

    def then(self, other: ChannelMap) -> ChannelMap:
        """The map that applies this one first."""
        weight, after = self.weight, self.after
        if weight.shape.rank == 1 and other.weight.shape.rank == 2:
            weight = weight[:, tf.newaxis] * other.weight
        else:
            weight = _times(weight, other.weight)
        if other.before is not None:
            after = -other.before if after is None else after - other.before
        if after is not None:
            after = _times(after[tf.newaxis], other.weight)[0]
        if other.after is not None:
            after = other.after if after is None else after + other.after
        return ChannelMap(self.before, weight, after, self.log_det + other.log_det)


def _times(x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    if weight.shape.rank == 1:
        return x * weight
    if x.shape.rank == 2:
        return tf.matmul(x, weight)
    channels = weight.shape[0]
    out = tf.reshape(tf.matmul(tf.reshape(x, [-1, channels]), weight), tf.shape(x))
    out.set_shape(x.shape)
    return out


class ChannelAffine(FlowBijector):
    """Applies the channel maps of several bijectors as one; `Chain` makes it, users need not.

    Args:
      bijectors: with a method `channel_map(value, forward)`; in the order of `Chain`.
    """

    def __init__(self, bijectors: Sequence[FlowBijector]):
        self._bijectors = list(bijectors)
        super().__init__(
            forward_min_event_ndims=1, is_constant_jacobian=True, parameters={}, name="channels"
        )

    def _forward_and_log_det(self, x, context):
        return self._apply(x, self._bijectors[::-1], forward=True)

    def _inverse_and_log_det(self, y, context):
        return self._apply(y, self._bijectors, forward=False)

    def _apply(self, value, bijectors, forward: bool):
        maps = [b.channel_map(value, forward) for b in bijectors]
        whole = functools.reduce(ChannelMap.then, maps)
        return whole(value), whole.log_det


def fold(bijectors: Sequence[tfb.Bijector]) -> list[tfb.Bijector]:
    """Replaces every run of two or more channel maps by one `ChannelAffine`."""
    folded: list[tfb.Bijector] = []
    run: list[FlowBijector] = []
    for b in [*bijectors, None]:
        if b is not None and getattr(b, "is_channel_map", False):
            run.append(b)
            continue
        folded += [ChannelAffine(run)] if len(run) > 1 else run
        run = []
        if b is not None:
            folded.append(b)
    return folded
