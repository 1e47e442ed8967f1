"""Neighbouring ActNorm and 1x1 convolutions as one small matrix, one product."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import FlowBijector
from tfp_flows.core.bijector import Context, Pair

tfb = tfp.bijectors


class ChannelMap(NamedTuple):
    """The map `x -> (x - before) weight + shift + after` of channel vectors; None stands for 0.

    A weight of rank 1 is a diagonal. `before` and `after` are locations of data, and may be so
    large against the rest that adding `shift` to them would round it away.
    """

    before: tf.Tensor | None
    weight: tf.Tensor
    shift: tf.Tensor | None
    after: tf.Tensor | None
    log_det: tf.Tensor

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        if self.before is not None:
            x = x - self.before
        x = _times(x, self.weight)
        for more in (self.shift, self.after):
            x = x if more is None else x + more
        return x

    def condition_number(self) -> tf.Tensor:
        """The largest singular value of a matrix of weights over the least."""
        singular = tf.linalg.svd(tf.cast(self.weight, tf.float64), compute_uv=False)
        return singular[0] / singular[-1]

    def then(self, other: ChannelMap) -> ChannelMap:
        """The map that applies this one first."""
        weight, shift = self.weight, _plus(self.shift, self.after)
        if weight.shape.rank == 1 and other.weight.shape.rank == 2:
            weight = weight[:, tf.newaxis] * other.weight
        else:
            weight = _times(weight, other.weight)
        if other.before is not None:
            shift = _plus(shift, -other.before)
        if shift is not None:
            shift = _times(shift[tf.newaxis], other.weight)[0]
        shift = _plus(shift, other.shift)
        return ChannelMap(self.before, weight, shift, other.after, self.log_det + other.log_det)


def _plus(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


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

    def _evaluate(self, value: tf.Tensor, context: Context, forward: bool) -> Pair:
        bijectors = self._bijectors[::-1] if forward else self._bijectors
        whole = functools.reduce(
            ChannelMap.then, [b.channel_map(value, forward) for b in bijectors]
        )
        return whole(value), whole.log_det

    _forward_and_log_det = functools.partialmethod(_evaluate, forward=True)
    _inverse_and_log_det = functools.partialmethod(_evaluate, forward=False)


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
