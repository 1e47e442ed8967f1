"""Noise between the grey levels, learned."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp, resnet
from tfp_flows.core.numerics import rounding_unit
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    as_filters,
    as_units,
    check_counts,
    check_dtype,
    check_event_shape,
    kept_features,
    network_policy,
    ready_made,
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
    `Dequantized(flow, levels, dequantizer=...)`, of which it is trained with the rest.

    Source: Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv 1902.00275, section 3.1 (without its attention).

    Args:
      event_shape: of the pixels: `(features,)`, or `(height, width, channels)`.
      layers: number of couplings.
      hidden: for images, the filters of the residual blocks; for vectors, the units of the
        hidden layers.
      components: logistic distributions in each mixture.
      blocks: residual blocks of each network, for images.
      activation: a Keras activation.
      dropout: rate in the networks, while training.
      network_dtype: dtype policy of the networks; None: Keras's if that is mixed, else the flow's.
      dtype: of the flow that models the pixels.
      name: name of the distribution.

    Raises:
      ValueError: an event shape that does not fit: couplings need two entries or more.

    Example:
      >>> noise = dequantizer(event_shape=(4, 4, 1), layers=2, hidden=8)
      >>> noise.sample(5, context=tf.zeros([5, 4, 4, 1])).shape
      TensorShape([5, 4, 4, 1])
    """
    dtype = check_dtype(dtype, name)
    network_dtype = network_policy(network_dtype, dtype)
    shape = check_event_shape(event_shape, (1, 3), name)
    check_counts(layers=layers, components=components, blocks=blocks)
    mixture = LogisticMixtureCDF(components)

    def make_coupling(swap: bool) -> fb.Coupling:
        if len(shape) == 1:
            (features,) = shape
            mask = vector_mask(features)
            kept = kept_features(features, swap)
            net = mlp(
                kept,
                mixture.num_params * (features - kept),
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
    # Not quite to the ends: noise of exactly 0 or 1 would have an infinite log-det.
    unit = tfb.Sigmoid(tf.constant(eps, dtype), tf.constant(1.0 - eps, dtype))
    base = tfd.Sample(tfd.Logistic(tf.zeros([], dtype), tf.ones([], dtype)), shape, name="base")
    # The context is an image in [-1/2, 1/2]: its units are known.
    return Flow(base, fb.Chain([unit, *steps]), shape, standardize_context=False, name=name)
