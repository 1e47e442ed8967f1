"""Neural spline flows: couplings with monotone rational-quadratic splines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import conv, mlp
from tfp_flows.distributions import Flow
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.image_scales import Image, multi_scale_flow
from tfp_flows.flows.layers import (
    alternating,
    as_filters,
    as_units,
    check_counts,
    identity_features,
    mixing,
    seeds_from,
    vector_mask,
)
from tfp_flows.transformers import RationalQuadraticSpline

tfb, tfd = tfp.bijectors, tfp.distributions


@ready_made
def neural_spline(
    event_shape: Sequence[int],
    layers: int = 8,
    hidden: Sequence[int] | int | None = None,
    bins: int = 8,
    bound: float | None = None,
    levels: int = 2,
    circular: bool = False,
    activation: str = "relu",
    dropout: float = 0.0,
    network_dtype: str | None = None,
    stacked: bool = True,
    reversible: bool = False,
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "neural_spline",
) -> Flow:
    """Rational-quadratic neural spline flow with couplings, for vectors, images and angles.

    For vectors, `layers` layers of `ActNorm`, a linear map in LU form and a spline coupling. For
    images, the scales of `glow` with spline couplings in place of affine ones. With `circular`, the
    features are angles in `[-pi, pi]`, the base is uniform on the circles, and rotations replace
    the linear maps.

    Source: Neural Spline Flows, arXiv 1906.04032; Normalizing Flows on Tori and Spheres, arXiv
    2002.02428.

    Args:
      event_shape: `(features,)`, or `(height, width, channels)`.
      layers: number of couplings; for images, at each scale.
      hidden: for vectors, the units of the hidden layers, (128, 128) if None; for images, the
        filters of the convolutions, 64 if None.
      bins: number of bins of each spline.
      bound: splines transform `[-bound, bound]`, 3 if None, and are the identity outside; for
        angles it is half the circumference, pi if None.
      levels: number of scales, for images.
      circular: whether the features are angles.
      seed: of the initial linear maps and rotations; None: from TensorFlow's global generator.

    Raises:
      ValueError: if the event shape does not fit, if `circular` is not a bool, or if it is true for
        images.

    Example:
      >>> flow = neural_spline(event_shape=(3,), layers=2, hidden=(16,))
      >>> flow.sample(5, seed=1).shape
      TensorShape([5, 3])
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
    check_counts(layers=layers)
    context, network_dtype = build.context, build.network_dtype
    spline = RationalQuadraticSpline(bins, bound, circular=circular)
    seeds = seeds_from(seed)

    if len(build.shape) == 3:
        if circular:
            raise ValueError(
                f"{name}: circular splines are for vectors of angles, got {build.shape}."
            )
        filters = as_filters(64 if hidden is None else hidden)

        def make_step(image: Image) -> fb.Chain:
            h, w, c = image
            net = conv(
                (h, w, c // 2),
                spline.num_params * (c // 2),
                filters,
                activation,
                dropout,
                context=context,
                dtype=network_dtype,
            )
            return fb.Chain([*mixing(c, seeds, build.dtype), fb.Coupling(net, spline, "channel")])

        return multi_scale_flow(build, make_step, levels, layers, True, stacked, reversible)

    (features,) = build.shape
    mask, units = vector_mask(features), as_units((128, 128) if hidden is None else hidden)

    def make_layer(swap: bool) -> list[tfb.Bijector]:
        identity = identity_features(features, swap)
        inputs = 2 * identity if circular else identity  # cosines and sines
        outputs = spline.num_params * (features - identity)
        net = mlp(inputs, outputs, units, activation, dropout, context, dtype=network_dtype)
        if circular:
            before = [fb.Rotation(features, next(seeds), spline.bound, dtype=build.dtype)]
        else:
            before = mixing(features, seeds, build.dtype)
        return [*before, fb.Coupling(net, spline, mask, swap)]

    base = None
    if circular:
        # A little wider than the circle, whose end would otherwise have no density.
        end = np.nextafter(build.dtype.as_numpy_dtype(spline.bound), np.inf)
        base = tfd.Sample(tfd.Uniform(-end, end), features, name="base")
    return build.flow(alternating(make_layer, layers, stacked, reversible), base)
