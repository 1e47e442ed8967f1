"""Residual flows, for vectors."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import lipschitz_mlp
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    as_units,
    check_context_shape,
    check_counts,
    check_dtype,
    check_event_shape,
    flow_of,
    ready_made,
)

tfb = tfp.bijectors


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
