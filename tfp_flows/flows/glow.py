"""Glow: multi-scale steps of ActNorm, invertible 1x1 convolution and affine coupling."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import conv
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    as_filters,
    check_dtype,
    check_event_shape,
    mixing,
    network_policy,
    ready_made,
    seeds_from,
)
from tfp_flows.flows.levels import Levels
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
      network_dtype: dtype policy of the networks; None: Keras's if that is mixed, else the flow's;
        `"mixed_bfloat16"` computes them in low precision, the flow's arithmetic stays exact.
      position_bias: whether each network's first layer has a bias for every position, which
        pays where images are aligned, as digits and faces are.
      split_prior: whether the prior of what a level factors out is learned from what goes on;
        if not, it is standard normal.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(-0.505, 0.505)` does with `Dequantized`. Data on or beyond the bounds have no
        density; see `Flow`.
      stacked: whether the steps of a level are one loop; if not, every step has variables and a
        place in the graph of its own.
      reversible: train by inversion, with activations rebuilt from the latents; see `fb.Repeat`
        and `fb.Chain`.
      context_shape: `(k,)` for a flow given vectors, which all networks see, and on which the
        prior of the last level depends too; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
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
    dtype = check_dtype(dtype, name)
    network_dtype = network_policy(network_dtype, dtype)
    hidden = as_filters(hidden)
    shape = check_event_shape(event_shape, (3,), name, data_bijector)
    build = Levels(
        shape,
        levels,
        steps,
        split_prior,
        stacked,
        reversible,
        context_shape,
        standardize_context,
        dtype,
        name,
    )
    seeds = seeds_from(seed)

    def make_step(image: tuple[int, int, int]) -> fb.Chain:
        h, w, c = image
        net = conv(
            (h, w, c // 2),
            c,
            hidden,
            activation,
            dropout,
            position_bias,
            build.context_shape,
            dtype=network_dtype,
        )
        return fb.Chain(
            [
                *mixing(c, seeds, dtype),
                fb.AffineCoupling(net, mask="channel", scale_map=scale_map),
            ]
        )

    return build.flow(make_step, network_dtype, data_bijector)
