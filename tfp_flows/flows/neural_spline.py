"""Neural spline flows: couplings with monotone splines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import conv, mlp
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    as_filters,
    as_units,
    check_context_shape,
    check_counts,
    check_dtype,
    check_event_shape,
    flow_of,
    kept_features,
    mixing,
    network_policy,
    ready_made,
    seeds_from,
    taking_turns,
    vector_mask,
)
from tfp_flows.flows.levels import Levels
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
    images, the levels of `glow` with spline couplings in place of affine ones. With `circular`,
    the features are angles in `[-pi, pi]`, the base is uniform on the circles, and rotations
    stand in place of the linear maps.

    Source: Neural Spline Flows, arXiv 1906.04032; Normalizing Flows on Tori and Spheres, arXiv
    2002.02428.

    Args:
      event_shape: `(features,)`, or `(height, width, channels)`.
      layers: number of couplings; for images, in each level.
      hidden: for vectors the units of the hidden layers, (128, 128) if None; for images the
        filters, 64 if None.
      bins: of each spline.
      bound: the splines bend what lies in `[-bound, bound]`, 3 if None; on circles half the
        circumference, pi if None.
      levels: for images, number of levels.
      circular: whether the features are angles.
      activation: a Keras activation.
      dropout: rate in the networks, while training.
      network_dtype: dtype policy of the networks; None: Keras's if that is mixed, else the flow's.
      stacked: whether layers hold their parameters together, see `fb.Repeat`.
      reversible: train by inversion; see `fb.Chain`.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)` for a flow given vectors, which all networks see; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      seed: of the initial linear maps and rotations.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: an event shape that does not fit, circles for images, or a `circular` that is not
        a bool.

    Example:
      >>> flow = neural_spline(event_shape=(3,), layers=2, hidden=(16,))
      >>> flow.sample(5, seed=1).shape
      TensorShape([5, 3])
    """
    dtype = check_dtype(dtype, name)
    network_dtype = network_policy(network_dtype, dtype)
    shape = check_event_shape(event_shape, (1, 3), name, data_bijector)
    check_counts(layers=layers)
    context = check_context_shape(context_shape, (1,), name)
    spline = RationalQuadraticSpline(bins, bound, circular=circular)
    seeds = seeds_from(seed)

    if len(shape) == 3:
        if circular:
            raise ValueError(f"{name}: circular splines are for vectors of angles, got {shape}.")
        filters = as_filters(64 if hidden is None else hidden)

        def make_step(image: tuple[int, int, int]) -> fb.Chain:
            h, w, c = image
            outputs = spline.num_params * (c // 2)
            net = conv(
                (h, w, c // 2),
                outputs,
                filters,
                activation,
                dropout,
                context=context,
                dtype=network_dtype,
            )
            return fb.Chain([*mixing(c, seeds, dtype), fb.Coupling(net, spline, "channel")])

        units = standardize_context
        build = Levels(
            shape, levels, layers, True, stacked, reversible, context, units, dtype, name
        )
        return build.flow(make_step, network_dtype, data_bijector)

    (features,) = shape
    mask = vector_mask(features)
    units = as_units((128, 128) if hidden is None else hidden)

    def before_coupling() -> list[tfb.Bijector]:
        if circular:
            return [fb.Rotation(features, next(seeds), spline.bound, dtype=dtype)]
        return mixing(features, seeds, dtype)

    def make_layer(swap: bool) -> list[tfb.Bijector]:
        kept = kept_features(features, swap)
        inputs = 2 * kept if circular else kept
        outputs = spline.num_params * (features - kept)
        net = mlp(inputs, outputs, units, activation, dropout, context, dtype=network_dtype)
        return [*before_coupling(), fb.Coupling(net, spline, mask, swap)]

    bijector = taking_turns(make_layer, layers, stacked, reversible)
    base = None
    if circular:
        # A little wider than the circle, whose end would else have no density.
        end = np.nextafter(dtype.as_numpy_dtype(spline.bound), np.inf)
        base = tfd.Sample(tfd.Uniform(-end, end), features, name="base")
    return flow_of(bijector, data_bijector, shape, dtype, context, standardize_context, name, base)
