"""NICE and RealNVP: flows of additive and affine couplings."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp, resnet
from tfp_flows.distributions import Flow
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.image_scales import Image
from tfp_flows.flows.layers import (
    alternating,
    as_filters,
    as_units,
    check_counts,
    identity_features,
    vector_mask,
)
from tfp_flows.keras_engine import keras
from tfp_flows.transformers.affine import ScaleMap

tfb, tfd = tfp.bijectors, tfp.distributions


@ready_made
def nice(
    event_shape: Sequence[int],
    layers: int = 4,
    hidden: Sequence[int] | int = (128, 128),
    activation: str = "relu",
    dropout: float = 0.0,
    network_dtype: str | None = None,
    stacked: bool = True,
    reversible: bool = False,
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    dtype: tf.DType = tf.float32,
    name: str = "nice",
) -> Flow:
    """NICE for vectors: additive couplings over even and odd features, then a diagonal scale.

    The base is a standard logistic. The diagonal scale (and a shift) is an `ActNorm` next to the
    data, so it starts at the data's own scale.

    Source: NICE: Non-linear Independent Components Estimation, arXiv 1410.8516.

    Args:
      event_shape: `(features,)`, of two features or more.
      layers: number of couplings.
      hidden: units of each network's hidden layers.

    Raises:
      ValueError: if the event is not a vector of two features or more.

    Example:
      >>> flow = nice(event_shape=(6,), layers=4, hidden=(16,))
      >>> flow.log_prob(tf.zeros([10, 6])).shape
      TensorShape([10])
    """
    build = FlowBuilder(
        name, event_shape, dtype, data_bijector, context_shape, standardize_context, network_dtype
    )
    (features,) = build.shape
    vector_mask(features)  # raises for a single feature
    check_counts(layers=layers)
    context, network_dtype, hidden = build.context, build.network_dtype, as_units(hidden)

    def make_layer(swap: bool) -> list[tfb.Bijector]:
        identity = identity_features(features, swap)
        outputs = features - identity
        net = mlp(identity, outputs, hidden, activation, dropout, context, dtype=network_dtype)
        return [fb.AdditiveCoupling(net, mask="alternate", swap=swap)]

    couplings = alternating(make_layer, layers, stacked, reversible)
    zero, one = tf.zeros([], build.dtype), tf.ones([], build.dtype)
    base = tfd.Sample(tfd.Logistic(zero, one), features, name="base")
    return build.flow(fb.Chain([fb.ActNorm(features, dtype=build.dtype), couplings]), base)


@ready_made
def real_nvp(
    event_shape: Sequence[int],
    layers: int = 8,
    hidden: Sequence[int] | int | None = None,
    levels: int = 2,
    blocks: int = 2,
    scale_map: str | ScaleMap = "exp_tanh",
    activation: str = "relu",
    dropout: float = 0.0,
    network_dtype: str | None = None,
    stacked: bool = True,
    reversible: bool = False,
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    dtype: tf.DType = tf.float32,
    name: str = "real_nvp",
) -> Flow:
    """RealNVP: affine couplings whose identity and transformed parts alternate.

    For vectors, `layers` couplings with MLPs, an `ActNorm` before each (in place of the paper's
    batch normalisation, whose statistics depend on the batch). For images, `levels` scales: 3
    checkerboard couplings, squeeze, 3 channel couplings, and half of the channels factored out;
    the last scale has 4 checkerboard couplings. Networks for images are residual.

    Source: Density estimation using Real NVP, arXiv 1605.08803.

    Args:
      event_shape: `(features,)`, or `(height, width, channels)`.
      layers: number of couplings, for vectors.
      hidden: for vectors, the units of the hidden layers, (128, 128) if None; for images, the
        filters of the residual blocks, 32 if None.
      levels: number of scales, for images.
      stacked: for vectors, whether layers hold their variables stacked, as `fb.Repeat` does, which
        makes optimizer updates cheap.

    Raises:
      ValueError: if the event shape does not fit, as an image that cannot be squeezed.

    Example:
      >>> flow = real_nvp(event_shape=(6,), layers=2, hidden=(16, 16))
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 6])
    """
    build = FlowBuilder(
        name,
        event_shape,
        dtype,
        data_bijector,
        context_shape,
        standardize_context,
        network_dtype,
        ranks=(1, 3),
    )
    check_counts(layers=layers, levels=levels, blocks=blocks)
    context, network_dtype = build.context, build.network_dtype

    def with_norm(net: keras.Model, size: int, mask: str, swap: bool) -> list[tfb.Bijector]:
        norm = fb.ActNorm(size, dtype=build.dtype)
        return [norm, fb.AffineCoupling(net, mask=mask, swap=swap, scale_map=scale_map)]

    if len(build.shape) == 1:
        (features,) = build.shape
        mask, units = vector_mask(features), as_units((128, 128) if hidden is None else hidden)

        def make_layer(swap: bool) -> list[tfb.Bijector]:
            identity = identity_features(features, swap)
            outputs = 2 * (features - identity)
            net = mlp(identity, outputs, units, activation, dropout, context, dtype=network_dtype)
            return with_norm(net, features, mask, swap)

        return build.flow(alternating(make_layer, layers, stacked, reversible))

    filters = as_filters(32 if hidden is None else hidden)

    def couplings(image: Image, mask: str, count: int) -> list[tfb.Bijector]:
        h, w, c = image
        identity, outputs = (c, 2 * c) if mask == "checkerboard" else (c // 2, c)
        parts = []
        for i in range(count):
            net = resnet(
                (h, w, identity),
                outputs,
                filters,
                blocks,
                activation,
                dropout,
                context,
                dtype=network_dtype,
            )
            parts += with_norm(net, c, mask, swap=i % 2 == 1)
        return parts

    h, w, c = build.shape
    scales = []
    for _ in range(levels - 1):
        squeeze = fb.Squeeze()
        squeezed = tuple(squeeze.inverse_event_shape(tf.TensorShape([h, w, c])))
        before = couplings((h, w, c), "checkerboard", 3)
        after = couplings(squeezed, "channel", 3)
        scales.append(fb.Chain([*before, squeeze, *after], reversible))
        h, w, c = squeezed[0], squeezed[1], squeezed[2] // 2
    scales.append(fb.Chain(couplings((h, w, c), "checkerboard", 4), reversible))
    return build.flow(fb.MultiScale(scales, build.shape))
