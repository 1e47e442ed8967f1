"""Glow: multi-scale steps of ActNorm, invertible 1x1 convolution and affine coupling."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.bijectors.scale_maps import ScaleMap
from tfp_flows.conditioners import conv
from tfp_flows.conditioners.inputs import input_of
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import as_filters, check_counts, check_event_shape, standard_normal
from tfp_flows.keras_engine import keras

tfb = tfp.bijectors


def glow(
    event_shape: Sequence[int],
    levels: int = 2,
    steps: int = 8,
    hidden: int = 128,
    scale_map: str | ScaleMap = "sigmoid",
    activation: str = "relu",
    dropout: float = 0.0,
    network_dtype: str | None = None,
    position_bias: bool = False,
    split_prior: bool = True,
    data_bijector: tfb.Bijector | None = None,
    stacked: bool = True,
    reversible: bool = False,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "glow",
) -> Flow:
    """Glow for images.

    A level squeezes 2x2 pixels into channels, applies `steps` steps of ActNorm, invertible 1x1
    convolution and affine coupling (convolutions 3x3, 1x1, 3x3), and factors out half of the
    channels, with a prior that is learned from the other half.

    The steps of a level run as one loop over stacked parameters (`fb.Repeat`), so that the time
    to the first training step hardly grows with depth; with `reversible`, memory does not either.

    Source: Glow: Generative Flow with Invertible 1x1 Convolutions, arXiv 1807.03039.

    Args:
      event_shape: `(height, width, channels)`; height and width divisible by `2^levels`.
      levels: number of levels.
      steps: steps in each level.
      hidden: filters of each coupling's hidden layers.
      scale_map: see `AffineCoupling`.
      activation: a Keras activation.
      dropout: rate in the networks, while training.
      network_dtype: Keras's dtype policy for the networks, that of the flow if None;
        `"mixed_bfloat16"` computes them in low precision, the flow's arithmetic stays exact.
      position_bias: whether each network's first layer has a bias for every position, which
        pays where images are aligned, as digits and faces are.
      split_prior: whether the prior of what a level factors out is learned from what goes on;
        if not, it is standard normal.
      data_bijector: applied last, next to the data; for bounded data, for instance
        `tfb.Chain([tfb.Shift(-0.5), tfb.Sigmoid(-0.005, 1.005)])` with `Dequantized`.
      stacked: whether the steps of a level are one loop; if not, every step has variables and a
        place in the graph of its own.
      reversible: train by inversion, with activations rebuilt from the latents; see `fb.Repeat`
        and `fb.Chain`.
      seed: of the initial rotations.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: an event shape that cannot be squeezed `levels` times.

    Example:
      >>> flow = glow(event_shape=(8, 8, 1), levels=2, steps=1, hidden=8)
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 8, 8, 1])
    """
    dtype = tf.as_dtype(dtype)
    network_dtype = network_dtype or dtype.name
    shape = check_event_shape(event_shape, (3,), name)
    h, w, c = shape
    check_counts(levels=levels, steps=steps)
    hidden = as_filters(hidden)
    if h % 2**levels or w % 2**levels:
        raise ValueError(
            f"{name} halves height and width {levels} times, so both must be divisible by "
            f"{2**levels}; got {h}x{w}. Pad the images, or use fewer levels."
        )
    seeds = itertools.repeat(None) if seed is None else itertools.count(seed)

    def make_step(image: tuple[int, int, int]) -> fb.Chain:
        h, w, c = image
        net = conv(
            (h, w, c // 2), c, hidden, activation, dropout, position_bias, dtype=network_dtype
        )
        return fb.Chain(
            [
                fb.ActNorm(c, dtype=dtype),
                fb.Invertible1x1Conv(c, next(seeds), dtype=dtype),
                fb.AffineCoupling(net, mask="channel", scale_map=scale_map),
            ]
        )

    scales = []
    for level in range(levels):
        h, w, c = h // 2, w // 2, c * 4
        make = functools.partial(make_step, (h, w, c))
        if stacked:
            parts = [fb.Squeeze(), fb.Repeat(make(), steps, reversible)]
        else:
            each = [b for _ in range(steps) for b in make().bijectors]
            parts = [fb.Squeeze(), fb.Chain(each, reversible)]
        if level < levels - 1:
            if split_prior:
                parts.append(_split_prior((h, w, c // 2), c, network_dtype))
            c //= 2
        scales.append(fb.Chain(parts))
    bijector = fb.MultiScale(scales, shape)
    if data_bijector is not None:
        bijector = fb.Chain([data_bijector, bijector])
    return Flow(standard_normal(math.prod(shape), dtype), bijector, name=name)


def _split_prior(inputs: tuple[int, int, int], outputs: int, dtype: str) -> fb.AffineCoupling:
    """The factored-out half, standardised given the half that goes on."""
    net = keras.Sequential(
        [
            input_of(inputs, dtype),
            keras.layers.Conv2D(
                outputs, 3, padding="same", kernel_initializer="zeros", dtype=dtype
            ),
        ],
        name="split_prior",
    )
    return fb.AffineCoupling(net, mask="channel", scale_map="clamp", name="split_prior")
