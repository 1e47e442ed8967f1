"""NICE: additive couplings and a diagonal scale."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    as_units,
    check_context_shape,
    check_counts,
    check_dtype,
    check_event_shape,
    flow_of,
    kept_features,
    network_policy,
    ready_made,
    taking_turns,
    vector_mask,
)

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
        kept = kept_features(features, swap)
        net = mlp(kept, features - kept, hidden, activation, dropout, context, dtype=network_dtype)
        return [fb.AdditiveCoupling(net, mask="alternate", swap=swap)]

    couplings = taking_turns(make_layer, layers, stacked, reversible)
    zero, one = tf.zeros([], dtype), tf.ones([], dtype)
    base = tfd.Sample(tfd.Logistic(zero, one), features, name="base")
    bijector = fb.Chain([fb.ActNorm(features, dtype=dtype), couplings])
    return flow_of(
        bijector, data_bijector, (features,), dtype, context, standardize_context, name, base
    )
