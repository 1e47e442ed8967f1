"""Flows without a coupling structure: continuous (FFJORD) and residual ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import lipschitz_mlp, vector_field
from tfp_flows.distributions import Flow
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.layers import as_units, check_counts, seeds_from

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

    Source: FFJORD, arXiv 1810.01367; Neural Ordinary Differential Equations, arXiv 1806.07366; for
    the penalties, How to Train Your Neural ODE, arXiv 2002.02798.

    Args:
      hidden: units of the networks' hidden layers.
      blocks: number of continuous flows, one after the other.
      activation: a smooth Keras activation, by name.
      solver: `"adaptive"`, Dormand and Prince's method with steps that keep the tolerances, or
        `"fixed"`, `num_steps` equal steps of the classical Runge-Kutta method.
      num_steps: number of steps of the fixed solver.
      rtol: relative tolerance of the adaptive solver for each step.
      atol: absolute tolerance of the adaptive solver for each step.
      trace: how the divergence is computed: `"exact"`, or `"hutchinson"` (an estimate) for training
        with many features. It can be changed later, on the parts of the flow that are an
        `fb.ContinuousFlow`: `part.trace = "exact"`.
      noise: of Hutchinson's estimator, `"rademacher"` or `"gaussian"`.
      kinetic_penalty: weight of the squared speed in the loss of `fit`; 0.01 in the paper.
      jacobian_penalty: weight of the squared Jacobian in the loss of `fit`; 0.01 in the paper.
      seed: of Hutchinson's noise.

    Raises:
      ValueError: if the event is not a vector, or a setting is not among those above.

    Example:
      >>> flow = ffjord(event_shape=(2,), hidden=(16,))
      >>> flow.log_prob(tf.zeros([10, 2])).shape
      TensorShape([10])
    """
    build = FlowBuilder(name, event_shape, dtype, data_bijector, context_shape, standardize_context)
    (features,) = build.shape
    check_counts(blocks=blocks)
    parts = []
    for block_seed in itertools.islice(seeds_from(seed), blocks):
        net = vector_field(
            features, as_units(hidden), activation, build.context, dtype=build.dtype.name
        )
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
        parts += [fb.ActNorm(features, dtype=build.dtype), flow]
    return build.flow(fb.Chain(parts))


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
    """A residual flow: layers `x + g(x)`, each of which transforms all entries.

    Networks are `conditioners.lipschitz_mlp`, with an `ActNorm` before each layer. A density costs
    one evaluation of each network (and its Jacobian, or a few products with it); samples are found
    by fixed-point iteration, ten to a hundred evaluations.

    Source: Residual Flows for Invertible Generative Modeling, arXiv 1906.02735.

    Args:
      hidden: units of the networks' hidden layers.
      bound: Lipschitz constant of the networks, below 1. Closer to 1, layers are more expressive
        and sampling takes longer.
      log_det: `"exact"`, or `"unbiased"` for many features (the paper's estimator).
      seed: of the unbiased log-det; None, which training needs, draws anew in each call.

    Raises:
      ValueError: if `bound` is not in (0, 1), or the event is not a vector.

    Example:
      >>> flow = residual(event_shape=(2,), layers=2, hidden=(16,))
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 2])
    """
    build = FlowBuilder(name, event_shape, dtype, data_bijector, context_shape, standardize_context)
    (features,) = build.shape
    check_counts(layers=layers)
    net = lipschitz_mlp(
        features, as_units(hidden), bound, context=build.context, dtype=build.dtype.name
    )
    step = fb.Chain([fb.ActNorm(features, dtype=build.dtype), fb.Residual(net, log_det, seed)])
    # Unrolled: layers over vectors cost less than an iteration of a loop.
    return build.flow(fb.Chain([fb.Repeat(step, layers, unroll=True)]))
