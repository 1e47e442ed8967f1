"""Masked and inverse autoregressive flows, for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import made
from tfp_flows.distributions import Flow
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.layers import alternating, as_units, check_counts, seeds_from
from tfp_flows.transformers import Affine, RationalQuadraticSpline, Transformer
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
    the paper's batch normalisation, whose statistics depend on the batch). Sampling is a search
    that takes at most one pass per feature.

    Source: Masked Autoregressive Flow for Density Estimation, arXiv 1705.07057; with splines,
    Neural Spline Flows, arXiv 1906.04032.

    Args:
      layers: number of autoregressive layers.
      hidden: units of the networks' hidden layers.
      transformer: what is done to each feature: `"affine"`, or `"spline"` (rational-quadratic).
      bins: number of bins of each spline.
      bound: splines transform `[-bound, bound]` and are the identity outside.
      scale_map: from raw outputs of the network to log-scales of affine layers: `"exp_tanh"`,
        `"sigmoid"`, `"clamp"`, `"softplus"` or a function.
      order: order of the features, `"reverse"` (reversed from layer to layer) or `"random"` (drawn
        from `seed` for each layer). With reversed orders, layers hold their variables stacked, as
        `fb.Repeat` does, which makes optimizer updates cheap.
      seed: of random orders; None: from TensorFlow's global generator.

    Raises:
      ValueError: if the event is not a vector, or if the transformer or the order is unknown.

    Example:
      >>> flow = maf(event_shape=(6,), layers=2, hidden=(16, 16))
      >>> flow.log_prob(flow.sample(3, seed=1)).shape
      TensorShape([3])
    """
    build = FlowBuilder(name, event_shape, dtype, data_bijector, context_shape, standardize_context)
    element_wise = _transformer(transformer, bins, bound, scale_map)
    return _flow(build, element_wise, layers, hidden, order, activation, seed, invert=False)


@ready_made(like=maf)
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

    The inverses of the layers of `maf`, for variational inference: use
    `experimental_sample_and_log_prob`. The density of other data is a search that takes at most one
    pass per feature.

    Source: Improving Variational Inference with Inverse Autoregressive Flow, arXiv 1606.04934.

    Raises:
      ValueError: if the event is not a vector, or if the transformer or the order is unknown.

    Example:
      >>> flow = iaf(event_shape=(6,), layers=2, hidden=(16, 16))
      >>> x, log_prob = flow.experimental_sample_and_log_prob(3, seed=1)
      >>> x.shape, log_prob.shape
      (TensorShape([3, 6]), TensorShape([3]))
    """
    build = FlowBuilder(name, event_shape, dtype, data_bijector, context_shape, standardize_context)
    element_wise = _transformer(transformer, bins, bound, scale_map)
    return _flow(build, element_wise, layers, hidden, order, activation, seed, invert=True)


def _transformer(name: str, bins: int, bound: float, scale_map: str | ScaleMap) -> Transformer:
    if name == "affine":
        return Affine(scale_map)
    if name == "spline":
        return RationalQuadraticSpline(bins, bound)
    raise ValueError(f"transformer must be 'affine' or 'spline', got {name!r}.")


def _flow(
    build: FlowBuilder,
    transformer: Transformer,
    layers: int,
    hidden: Sequence[int] | int,
    order: str,
    activation: str,
    seed: int | None,
    invert: bool,
) -> Flow:
    (features,) = build.shape
    check_counts(layers=layers)
    if order not in ("reverse", "random"):
        raise ValueError(f"order must be 'reverse' or 'random', got {order!r}.")
    seeds = seeds_from(seed)

    def make_layer(swap: bool) -> list[tfb.Bijector]:
        alternate = "reverse" if swap else "sequential"
        net = made(
            features,
            transformer.num_params,
            as_units(hidden),
            order if order == "random" else alternate,
            activation,
            build.context,
            next(seeds),
            dtype=build.dtype.name,
        )
        layer = fb.MaskedAutoregressive(net, transformer)
        return [fb.ActNorm(features, dtype=build.dtype), fb.Invert(layer) if invert else layer]

    # A mask belongs to its layer, so layers with different random orders cannot be stacked.
    return build.flow(alternating(make_layer, layers, order == "reverse", reversible=False))
