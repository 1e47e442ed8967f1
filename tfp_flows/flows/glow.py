"""Glow: steps of ActNorm, invertible 1x1 convolution and affine coupling, at several scales."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import conv
from tfp_flows.distributions import Flow
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.image_scales import Image, multi_scale_flow
from tfp_flows.flows.layers import as_filters, mixing, seeds_from
from tfp_flows.transformers.affine import ScaleMap

tfb = tfp.bijectors


@ready_made
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
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "glow",
) -> Flow:
    """Glow for images.

    At each scale, 2x2 pixels are squeezed into channels, `steps` steps of ActNorm, invertible 1x1
    convolution and affine coupling (convolutions 3x3, 1x1, 3x3) follow, and half of the channels
    are factored out, with a prior that is learned from the other half.

    The steps of a scale run as one loop over stacked variables (`fb.Repeat`), so that the time to
    the first training step hardly grows with depth; with `reversible`, memory does not either.

    Source: Glow: Generative Flow with Invertible 1x1 Convolutions, arXiv 1807.03039.

    Args:
      event_shape: `(height, width, channels)`; height and width divisible by `2^levels`.
      levels: number of image scales.
      steps: steps at each scale.
      hidden: filters of each coupling's hidden layers.
      position_bias: whether each network's first layer has a bias for every position, which helps
        where images are aligned, as digits and faces are.
      split_prior: whether the prior of the channels that are factored out is learned from the
        other channels; if not, it is standard normal.
      stacked: whether the steps of a scale are one loop; if not, every step has variables and
        operations of its own.
      context_shape: `(k,)` for a flow conditioned on vectors, which all networks and the prior of
        the last scale get as `context=`, `[..., k]`. None: the flow takes no context.
      seed: of the initial rotations; None: from TensorFlow's global generator.

    Raises:
      ValueError: if the images cannot be squeezed `levels` times.

    Example:
      >>> flow = glow(event_shape=(8, 8, 1), levels=2, steps=1, hidden=8)
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 8, 8, 1])
    """
    build = FlowBuilder(
        name,
        event_shape,
        dtype,
        data_bijector,
        context_shape,
        standardize_context,
        network_dtype,
        ranks=(3,),
    )
    filters, seeds = as_filters(hidden), seeds_from(seed)

    def make_step(image: Image) -> fb.Chain:
        h, w, c = image
        net = conv(
            (h, w, c // 2),
            c,
            filters,
            activation,
            dropout,
            position_bias,
            build.context,
            dtype=build.network_dtype,
        )
        coupling = fb.AffineCoupling(net, mask="channel", scale_map=scale_map)
        return fb.Chain([*mixing(c, seeds, build.dtype), coupling])

    return multi_scale_flow(build, make_step, levels, steps, split_prior, stacked, reversible)
