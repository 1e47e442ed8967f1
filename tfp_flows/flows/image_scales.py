"""Image flows over several scales with equal steps: what Glow and its relatives share."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.conditioners.dense import add_context, input_of
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.layers import check_counts
from tfp_flows.keras_engine import keras

tfb = tfp.bijectors

Image = tuple[int, int, int]


def multi_scale_flow(
    build: FlowBuilder,
    make_step: Callable[[Image], fb.Chain],
    levels: int,
    steps: int,
    split_prior: bool,
    stacked: bool,
    reversible: bool,
) -> Flow:
    """A flow of `levels` scales: each squeezes 2x2 pixels into channels, takes equal steps, and
    factors out half of the channels.

    Args:
      build: the arguments that all flows share.
      make_step: makes a step for images of a shape `(height, width, channels)`.
      levels: number of scales.
      steps: steps at each scale.
      split_prior: whether what is factored out has a prior learned from the other half.
      stacked: whether the steps of a scale are one loop over stacked variables.
      reversible: whether training recomputes activations by inversion.

    Raises:
      ValueError: if the images cannot be squeezed `levels` times.
    """
    check_counts(levels=levels, steps=steps)
    h, w, c = build.shape
    if h % 2**levels or w % 2**levels:
        raise ValueError(
            f"{build.name} halves height and width {levels} times, so both must be divisible by "
            f"{2**levels}; got {h}x{w}. Pad the images, or use fewer levels."
        )
    scales = []
    for level in range(levels):
        h, w, c = h // 2, w // 2, c * 4
        parts: list[tfb.Bijector] = [fb.Squeeze()]
        if stacked:
            parts.append(fb.Repeat(make_step((h, w, c)), steps, reversible))
        else:
            unrolled = (make_step((h, w, c)) for _ in range(steps))
            parts.append(fb.Chain([b for step in unrolled for b in step.bijectors], reversible))
        if level == levels - 1:
            parts += _last_prior(build, c)
        else:
            if split_prior:
                parts.append(_split_prior(build, (h, w, c // 2)))
            c //= 2
        scales.append(fb.Chain(parts))
    return build.flow(fb.MultiScale(scales, build.shape))


def _split_prior(build: FlowBuilder, half: Image) -> fb.AffineCoupling:
    """Standardises the half that is factored out, given the other half."""
    dtype = build.network_dtype
    remaining = input_of(half, dtype)
    context, x = add_context(remaining, build.context, dtype)
    zeros = keras.layers.Conv2D(
        2 * half[-1], 3, padding="same", kernel_initializer="zeros", dtype=dtype
    )
    net = keras.Model([remaining, *context] if context else remaining, zeros(x), name="split_prior")
    return fb.AffineCoupling(net, mask="channel", scale_map="clamp", name="split_prior")


def _last_prior(build: FlowBuilder, channels: int) -> list[tfb.Bijector]:
    """Standardises what is left at the last scale given the context, if there is one."""
    if build.context is None:
        return []
    net = mlp(build.context[0], 2 * channels, (), dtype=build.network_dtype, name="context_prior")
    return [fb.ContextAffine(net, event_ndims=3)]
