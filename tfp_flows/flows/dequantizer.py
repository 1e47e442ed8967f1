"""Variational dequantisation: a learned distribution of the noise added to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp, resnet
from tfp_flows.core.numerics import rounding_unit
from tfp_flows.distributions import Flow
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.layers import (
    as_filters,
    as_units,
    check_counts,
    identity_features,
    vector_mask,
)
from tfp_flows.transformers import LogisticMixtureCDF

tfb, tfd = tfp.bijectors, tfp.distributions


@ready_made
def dequantizer(
    event_shape: Sequence[int],
    layers: int = 4,
    hidden: Sequence[int] | int = 32,
    components: int = 4,
    blocks: int = 1,
    activation: str = "relu",
    dropout: float = 0.0,
    network_dtype: str | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "dequantizer",
) -> Flow:
    """Variational dequantisation: a flow over noise in (0, 1), given the image it is added to.

    `layers` mixture-CDF couplings (checkerboards for images, with residual networks; halves of
    vectors, with MLPs), and a sigmoid. The couplings run in the direction that is in closed form
    when noise is drawn. It starts close to uniform noise. Use it as
    `Dequantized(flow, levels, dequantizer=...)`, which trains it together with the flow.

    Source: Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv 1902.00275, section 3.1 (without its attention).

    Args:
      event_shape: shape of the images, `(height, width, channels)` or `(features,)`; it is also
        the shape of the context.
      layers: number of couplings.
      hidden: for images, the filters of the residual blocks; for vectors, the units of the hidden
        layers.
      components: number of logistic distributions in each mixture.
      dtype: dtype of the flow that models the pixels.

    Raises:
      ValueError: if the event shape does not fit: couplings need two entries or more.

    Example:
      >>> noise = dequantizer(event_shape=(4, 4, 1), layers=2, hidden=8)
      >>> noise.sample(5, context=tf.zeros([5, 4, 4, 1])).shape
      TensorShape([5, 4, 4, 1])
    """
    build = FlowBuilder(name, event_shape, dtype, network_dtype=network_dtype, ranks=(1, 3))
    shape, dtype, network_dtype = build.shape, build.dtype, build.network_dtype
    check_counts(layers=layers, components=components, blocks=blocks)
    mixture = LogisticMixtureCDF(components)

    def make_coupling(swap: bool) -> fb.Coupling:
        if len(shape) == 1:
            (features,) = shape
            mask = vector_mask(features)
            identity = identity_features(features, swap)
            net = mlp(
                identity,
                mixture.num_params * (features - identity),
                as_units(hidden),
                activation,
                dropout,
                shape,
                dtype=network_dtype,
            )
        else:
            mask = "checkerboard"
            if shape[0] * shape[1] < 2:
                raise ValueError(f"{name}: a checkerboard needs two positions, got {shape}.")
            net = resnet(
                shape,
                mixture.num_params * shape[-1],
                as_filters(hidden),
                blocks,
                activation,
                dropout,
                shape,
                dtype=network_dtype,
            )
        return fb.Coupling(net, mixture, mask, swap)

    eps = rounding_unit(dtype)
    steps = [fb.Invert(make_coupling(i % 2 == 1)) for i in range(layers)]
    # Short of the ends: noise of exactly 0 or 1 would have an infinite log-det.
    unit = tfb.Sigmoid(tf.constant(eps, dtype), tf.constant(1.0 - eps, dtype))
    base = tfd.Sample(tfd.Logistic(tf.zeros([], dtype), tf.ones([], dtype)), shape, name="base")
    # The context is an image in [-1/2, 1/2], which needs no standardising.
    return Flow(base, fb.Chain([unit, *steps]), shape, standardize_context=False, name=name)
