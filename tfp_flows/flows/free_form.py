"""Flows without a coupling structure: FFJORD and residual flows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import lipschitz_mlp, vector_field
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
)

tfb = tfp.bijectors


@ready_made
def ffjord(
    event_shape: Sequence[int],
    hidden: Sequence[int] | int = (64, 64),
    blocks: int = 1,
    activation: str = "softplus",
    solver: str = "adaptive",
    num_steps: int = 20,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    trace: str = "exact",
    noise: str = "rademacher",
    kinetic_penalty: float = 0.0,
    jacobian_penalty: float = 0.0,
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int = 0,
    dtype: tf.DType = tf.float32,
    name: str = "ffjord",
) -> Flow:
    """FFJORD for vectors: points flow along a learnt velocity field for a time of 1.

    Each block has a vector-field network of its own, and an `ActNorm` between it and the data.

    Source: FFJORD, arXiv 1810.01367; Neural Ordinary Differential Equations, arXiv 1806.07366.

    Args:
      event_shape: `(features,)`.
      hidden: units of the hidden layers of each network; see `conditioners.vector_field`.
      blocks: how many continuous flows follow each other.
      activation: a smooth Keras activation.
      solver, num_steps, rtol, atol: see `fb.ContinuousFlow`.
      trace: `"exact"`, or `"hutchinson"` for training with many features. It can be changed later:
        `for b in flow.submodules: b.trace = "exact"` for those that are a `fb.ContinuousFlow`.
      noise: see `fb.ContinuousFlow`.
      kinetic_penalty, jacobian_penalty: what `fit` adds to the loss to keep paths simple; 0.01
        each in the paper on them (arXiv 2002.02798).
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)` for a flow given vectors, which all networks see; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      seed: of Hutchinson's noise.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: the event is no vector, or a setting makes no sense.

    Example:
      >>> flow = ffjord(event_shape=(2,), hidden=(16,))
      >>> flow.log_prob(tf.zeros([10, 2])).shape
      TensorShape([10])
    """
    dtype = check_dtype(dtype, name)
    (features,) = check_event_shape(event_shape, (1,), name, data_bijector)
    check_counts(blocks=blocks)
    context = check_context_shape(context_shape, (1,), name)
    parts = []
    for block_seed in itertools.islice(seeds_from(seed), blocks):
        net = vector_field(features, as_units(hidden), activation, context, dtype=dtype.name)
        flow = fb.ContinuousFlow(
            net,
            solver=solver,
            num_steps=num_steps,
            rtol=rtol,
            atol=atol,
            trace=trace,
            noise=noise,
            seed=block_seed,
            kinetic_penalty=kinetic_penalty,
            jacobian_penalty=jacobian_penalty,
        )
        parts += [fb.ActNorm(features, dtype=dtype), flow]
    return flow_of(
        fb.Chain(parts), data_bijector, (features,), dtype, context, standardize_context, name
    )


@ready_made
def residual(
    event_shape: Sequence[int] | int,
    layers: int = 8,
    hidden: Sequence[int] | int = (64, 64),
    bound: float = 0.9,
    log_det: str = "exact",
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "residual",
) -> Flow:
    """A residual flow: layers `x + g(x)`, where every entry changes at once.

    Networks are `conditioners.lipschitz_mlp`, with an `ActNorm` before each layer. Densities
    cost one evaluation of each network (and its Jacobian, or a few products with it); samples are
    found by iteration, some ten to a hundred evaluations.

    Source: Residual Flows for Invertible Generative Modeling, arXiv 1906.02735.

    Args:
      event_shape: `(features,)`.
      layers: how many.
      hidden: units of the networks' hidden layers.
      bound: Lipschitz constant of the networks, below 1. Nearer to 1 a layer can do more, and
        sampling takes longer.
      log_det: `"exact"`, or for many features `"unbiased"`; see `fb.Residual`.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)` for a flow given vectors, which all networks see; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      seed: of the unbiased log-det; None, which training needs, draws anew in each call.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: a bound outside of (0, 1), or an event shape that does not fit.

    Example:
      >>> flow = residual(event_shape=(2,), layers=2, hidden=(16,))
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 2])
    """
    dtype = check_dtype(dtype, name)
    (features,) = check_event_shape(event_shape, (1,), name, data_bijector)
    check_counts(layers=layers)
    context = check_context_shape(context_shape, (1,), name)
    net = lipschitz_mlp(features, as_units(hidden), bound, context=context, dtype=dtype.name)
    step = fb.Chain([fb.ActNorm(features, dtype=dtype), fb.Residual(net, log_det, seed)])
    # Steps of vectors are small: the bookkeeping of a loop would show.
    bijector = fb.Chain([fb.Repeat(step, layers, unroll=True)])
    return flow_of(bijector, data_bijector, (features,), dtype, context, standardize_context, name)
