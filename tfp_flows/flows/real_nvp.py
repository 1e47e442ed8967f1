"""NICE and RealNVP: flows of additive and affine couplings."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp, resnet
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    alternating,
    as_filters,
    as_units,
    check_context_shape,
    check_counts,
    check_dtype,
    check_event_shape,
    flow_of,
    identity_features,
    network_policy,
    ready_made,
    vector_mask,
)
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

    The prior is a standard logistic. The diagonal scale (and a shift) is an `ActNorm` next to
    the data, so it starts at the data's own scale.

    Source: NICE: Non-linear Independent Components Estimation, arXiv 1410.8516.

    Args:
      event_shape: `(features,)`.
      layers: number of couplings.
      hidden: units of each coupling's hidden layers.
      activation: a Keras activation.
      dropout: rate in the hidden layers, while training.
      network_dtype: dtype policy of the networks; None: Keras's if that is mixed, else the flow's;
        `"mixed_bfloat16"` computes them in low precision, the flow's arithmetic stays exact.
      stacked: whether layers hold their parameters together (see `fb.Repeat`), which makes
        optimizer updates cheap.
      reversible: train by inversion; see `fb.Chain`.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)` for a flow given vectors, which all networks see; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: the event is not a vector of two features or more.

    Example:
      >>> flow = nice(event_shape=(6,), layers=4, hidden=(16,))
      >>> flow.log_prob(tf.zeros([10, 6])).shape
      TensorShape([10])
    """
    dtype = check_dtype(dtype, name)
    network_dtype = network_policy(network_dtype, dtype)
    (features,) = check_event_shape(event_shape, (1,), name, data_bijector)
    vector_mask(features)
    check_counts(layers=layers)
    context = check_context_shape(context_shape, (1,), name)
    hidden = as_units(hidden)

    def make_layer(swap: bool) -> list[tfb.Bijector]:
        kept = identity_features(features, swap)
        net = mlp(kept, features - kept, hidden, activation, dropout, context, dtype=network_dtype)
        return [fb.AdditiveCoupling(net, mask="alternate", swap=swap)]

    couplings = alternating(make_layer, layers, stacked, reversible)
    zero, one = tf.zeros([], dtype), tf.ones([], dtype)
    base = tfd.Sample(tfd.Logistic(zero, one), features, name="base")
    bijector = fb.Chain([fb.ActNorm(features, dtype=dtype), couplings])
    return flow_of(
        bijector, data_bijector, (features,), dtype, context, standardize_context, name, base
    )


tfb = tfp.bijectors


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
    """RealNVP: affine couplings that take turns in what they keep.

    For vectors, `layers` couplings with MLPs, an `ActNorm` before each (in place of the paper's
    batch normalisation, whose statistics depend on the batch). For images, `levels` levels: 3
    checkerboard couplings, squeeze, 3 channel couplings, and half of the channels factored out;
    the last level has 4 checkerboard couplings, and residual networks throughout.

    Source: Density estimation using Real NVP, arXiv 1605.08803.

    Args:
      event_shape: `(features,)`, or `(height, width, channels)`.
      layers: number of couplings, for vectors.
      hidden: for vectors, the units of the hidden layers, (128, 128) if None; for images, the
        filters of the residual blocks, 32 if None.
      levels: number of levels, for images.
      blocks: residual blocks of each network, for images.
      scale_map: see `AffineCoupling`.
      activation: a Keras activation.
      dropout: rate in the networks, while training.
      network_dtype: dtype policy of the networks; None: Keras's if that is mixed, else the flow's;
        `"mixed_bfloat16"` computes them in low precision, the flow's arithmetic stays exact.
      stacked: for vectors, whether layers hold their parameters together (see `fb.Repeat`),
        which makes optimizer updates cheap.
      reversible: train by inversion; see `fb.Chain`.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)` for a flow given vectors, which all networks see; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: an event shape that does not fit, as an image that cannot be squeezed.

    Example:
      >>> flow = real_nvp(event_shape=(6,), layers=2, hidden=(16, 16))
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 6])
    """
    dtype = check_dtype(dtype, name)
    network_dtype = network_policy(network_dtype, dtype)
    shape = check_event_shape(event_shape, (1, 3), name, data_bijector)
    check_counts(layers=layers, levels=levels, blocks=blocks)
    context = check_context_shape(context_shape, (1,), name)

    if len(shape) == 1:
        (features,) = shape
        mask = vector_mask(features)
        hidden = as_units((128, 128) if hidden is None else hidden)

        def make_layer(swap: bool) -> list[tfb.Bijector]:
            kept = identity_features(features, swap)
            outputs = 2 * (features - kept)
            net = mlp(kept, outputs, hidden, activation, dropout, context, dtype=network_dtype)
            return [
                fb.ActNorm(features, dtype=dtype),
                fb.AffineCoupling(net, mask=mask, swap=swap, scale_map=scale_map),
            ]

        bijector = alternating(make_layer, layers, stacked, reversible)
        return flow_of(bijector, data_bijector, shape, dtype, context, standardize_context, name)

    filters = as_filters(32 if hidden is None else hidden)

    def couplings(image: tuple[int, int, int], mask: str, count: int) -> list[tfb.Bijector]:
        h, w, c = image
        kept, outputs = (c, 2 * c) if mask == "checkerboard" else (c // 2, c)
        steps = []
        for i in range(count):
            net = resnet(
                (h, w, kept),
                outputs,
                filters,
                blocks,
                activation,
                dropout,
                context,
                dtype=network_dtype,
            )
            steps += [
                fb.ActNorm(c, dtype=dtype),
                fb.AffineCoupling(net, mask=mask, swap=i % 2 == 1, scale_map=scale_map),
            ]
        return steps

    h, w, c = shape
    scales = []
    for i in range(levels):
        if i == levels - 1:
            scales.append(fb.Chain(couplings((h, w, c), "checkerboard", 4), reversible))
            break
        squeeze = fb.Squeeze()
        squeezed = tuple(squeeze.inverse_event_shape(tf.TensorShape([h, w, c])))
        scales.append(
            fb.Chain(
                couplings((h, w, c), "checkerboard", 3)
                + [squeeze]
                + couplings(squeezed, "channel", 3),
                reversible,
            )
        )
        h, w, c = squeezed[0], squeezed[1], squeezed[2] // 2
    bijector = fb.MultiScale(scales, shape)
    return flow_of(bijector, data_bijector, shape, dtype, context, standardize_context, name)
