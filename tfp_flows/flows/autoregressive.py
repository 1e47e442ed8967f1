"""Masked and inverse autoregressive flows, for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import made
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    as_units,
    check_context_shape,
    check_counts,
    check_dtype,
    check_event_shape,
    flow_of,
    ready_made,
    seeds_from,
    taking_turns,
)
from tfp_flows.transformers import Affine, RationalQuadraticSpline
from tfp_flows.transformers.affine import ScaleMap

tfb = tfp.bijectors


@ready_made
def maf(
    event_shape: Sequence[int],
    layers: int = 5,
    hidden: Sequence[int] | int = (128, 128),
    transformer: str = "affine",
    bins: int = 8,
    bound: float = 3.0,
    scale_map: str | ScaleMap = "exp_tanh",
    order: str = "reverse",
    activation: str = "relu",
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "maf",
) -> Flow:
    """Masked autoregressive flow: densities take one evaluation of each network.

    `layers` autoregressive layers with MADE networks, and an `ActNorm` before each (in place of
    the paper's batch normalisation, whose statistics depend on the batch). Sampling is a search,
    of one pass for each feature at most.

    Source: Masked Autoregressive Flow for Density Estimation, arXiv 1705.07057; with splines,
    Neural Spline Flows, arXiv 1906.04032.

    Args:
      event_shape: `(features,)`.
      layers: number of autoregressive layers.
      hidden: units of the networks' hidden layers.
      transformer: what is done to each feature: `"affine"` (see `fb.MaskedAutoregressive`) or
        `"spline"` (see `fb.SplineAutoregressive`).
      bins: of each spline.
      bound: half the side of the box where the splines live.
      scale_map: of affine layers; see `fb.AffineCoupling`.
      order: of the features, `"reverse"` (turned round from layer to layer) or `"random"` (drawn
        for each layer from `seed`). With reversed orders, layers hold their parameters together
        in an `fb.Repeat`, which makes optimizer updates cheap.
      activation: a Keras activation.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)` for a flow given vectors, which all networks see; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      seed: of random orders; from TensorFlow's global generator if None.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: an event shape that is no vector, or an unknown transformer or order.

    Example:
      >>> flow = maf(event_shape=(6,), layers=2, hidden=(16, 16))
      >>> flow.log_prob(flow.sample(3, seed=1)).shape
      TensorShape([3])
    """
    return _flow(invert=False, **locals())


@ready_made
def iaf(
    event_shape: Sequence[int],
    layers: int = 5,
    hidden: Sequence[int] | int = (128, 128),
    transformer: str = "affine",
    bins: int = 8,
    bound: float = 3.0,
    scale_map: str | ScaleMap = "exp_tanh",
    order: str = "reverse",
    activation: str = "relu",
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "iaf",
) -> Flow:
    """Inverse autoregressive flow: samples, with their densities, take one evaluation.

    The layers of `maf` the other way round, for variational inference: use
    `experimental_sample_and_log_prob`. The density of data that come from elsewhere is a search,
    of one pass for each feature at most.

    Source: Improving Variational Inference with Inverse Autoregressive Flow, arXiv 1606.04934.

    Args:
      event_shape, layers, hidden, transformer, bins, bound, scale_map, order, activation,
        data_bijector, context_shape, standardize_context, seed, dtype, name: see `maf`.

    Raises:
      ValueError: as for `maf`.

    Example:
      >>> flow = iaf(event_shape=(6,), layers=2, hidden=(16, 16))
      >>> x, log_prob = flow.experimental_sample_and_log_prob(3, seed=1)
      >>> x.shape, log_prob.shape
      (TensorShape([3, 6]), TensorShape([3]))
    """
    return _flow(invert=True, **locals())


def _flow(
    invert,
    event_shape,
    layers,
    hidden,
    transformer,
    bins,
    bound,
    scale_map,
    order,
    activation,
    data_bijector,
    context_shape,
    standardize_context,
    seed,
    dtype,
    name,
) -> Flow:
    dtype = check_dtype(dtype, name)
    (features,) = check_event_shape(event_shape, (1,), name, data_bijector)
    check_counts(layers=layers)
    context = check_context_shape(context_shape, (1,), name)
    if transformer not in ("affine", "spline"):
        raise ValueError(f"transformer must be 'affine' or 'spline', got {transformer!r}.")
    if order not in ("reverse", "random"):
        raise ValueError(f"order must be 'reverse' or 'random', got {order!r}.")
    seeds = seeds_from(seed)
    if transformer == "affine":
        element_wise = Affine(scale_map)
    else:
        element_wise = RationalQuadraticSpline(bins, bound)

    def make_layer(turn: bool) -> list[tfb.Bijector]:
        entries = "reverse" if turn else "sequential"
        net = made(
            features,
            element_wise.num_params,
            as_units(hidden),
            order if order == "random" else entries,
            activation,
            context,
            next(seeds),
            dtype=dtype.name,
        )
        layer = fb.MaskedAutoregressive(net, element_wise)
        return [fb.ActNorm(features, dtype=dtype), fb.Invert(layer) if invert else layer]

    # A mask belongs to the layer, so that layers with orders of their own cannot be stacked.
    bijector = taking_turns(make_layer, layers, order == "reverse", reversible=False)
    return flow_of(bijector, data_bijector, (features,), dtype, context, standardize_context, name)
