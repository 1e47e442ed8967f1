"""Planar, radial and Sylvester flows, for variational inference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.bijectors.planar import Amortized
from tfp_flows.conditioners import mlp
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
def planar(
    event_shape: Sequence[int],
    layers: int = 16,
    hidden: Sequence[int] | int = (64,),
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "planar",
) -> Flow:
    """Planar layers, after which an `ActNorm` gives the distribution its place and spread.

    Samples and their densities (`experimental_sample_and_log_prob`) are cheap and explicit; the
    density of given data searches a root in every layer, which is exact too, and slower.

    With a context the flow is amortised, a posterior `q(z | x)` for every `x`: networks map the
    context to changes of each layer's parameters, and to the mean and the scales of a Gaussian
    that is the base (`ContextAffine`). All changes start at zero.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770.

    Args:
      event_shape: `(features,)`.
      layers: how many.
      hidden: units of the hidden layers of the context's networks; of no use without a context.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)`; None: the flow takes no context.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      seed: of the layers' start; from TensorFlow's global generator if None.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: an event or a context shape that is no vector's; no layers.

    Example:
      >>> flow = planar(event_shape=(2,), layers=4, seed=0)
      >>> z, log_prob = flow.experimental_sample_and_log_prob(3, seed=1)
      >>> bool(tf.reduce_all(tf.abs(flow.log_prob(z) - log_prob) < 1e-4))
      True
    """
    return _flow(
        fb.Planar,
        event_shape,
        layers,
        hidden,
        data_bijector,
        context_shape,
        standardize_context,
        seed,
        dtype,
        name,
    )


@ready_made
def radial(
    event_shape: Sequence[int],
    layers: int = 16,
    hidden: Sequence[int] | int = (64,),
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "radial",
) -> Flow:
    """Radial layers, in place of the planar ones of `flows.planar`; both directions are explicit.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770.

    Args:
      event_shape, layers, hidden, data_bijector, context_shape, standardize_context, seed,
        dtype: see `flows.planar`.
      name: name of the distribution.

    Raises:
      ValueError: as `flows.planar`.

    Example:
      >>> radial(event_shape=(2,), layers=4, context_shape=(3,)).condition(tf.ones([5, 3]))
      Conditioned(Flow('radial', ...), batch_shape=(5,))
    """
    return _flow(
        fb.Radial,
        event_shape,
        layers,
        hidden,
        data_bijector,
        context_shape,
        standardize_context,
        seed,
        dtype,
        name,
    )


@ready_made
def sylvester(
    event_shape: Sequence[int],
    layers: int = 4,
    rank: int | None = None,
    hidden: Sequence[int] | int = (64,),
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "sylvester",
) -> Flow:
    """Sylvester layers, in place of the planar ones of `flows.planar`.

    A layer does what `rank` planar layers do, in one matrix product. The density of given data
    searches `layers * rank` roots.

    Source: Sylvester Normalizing Flows for Variational Inference, arXiv 1803.05649.

    Args:
      event_shape, layers, hidden, data_bijector, context_shape, standardize_context, seed,
        dtype: see `flows.planar`.
      rank: how many directions each layer bends, at most the features; if None all of them, or 8.
      name: name of the distribution.

    Raises:
      ValueError: as `flows.planar`; or a rank that does not fit.

    Example:
      >>> sylvester(event_shape=(6,), rank=3).sample(4, seed=0).shape
      TensorShape([4, 6])
    """
    (features,) = check_event_shape(event_shape, (1,), name, data_bijector)
    make = functools.partial(fb.Sylvester, rank=min(features, 8) if rank is None else rank)
    return _flow(
        make,
        event_shape,
        layers,
        hidden,
        data_bijector,
        context_shape,
        standardize_context,
        seed,
        dtype,
        name,
    )


def _flow(
    make: Callable[..., Amortized],
    event_shape: Sequence[int],
    layers: int,
    hidden: Sequence[int] | int,
    data_bijector: tfb.Bijector | None,
    context_shape: Sequence[int] | int | None,
    standardize_context: bool,
    seed: int | None,
    dtype: tf.DType,
    name: str,
) -> Flow:
    dtype = check_dtype(dtype, name)
    (features,) = check_event_shape(event_shape, (1,), name, data_bijector)
    check_counts(layers=layers)
    context = check_context_shape(context_shape, (1,), name)

    step, base = make(features, seed=seed, dtype=dtype), []
    if context is not None:
        net = functools.partial(mlp, context[0], hidden=as_units(hidden), dtype=dtype.name)
        step = make(features, conditioner=net(step.params.shape[0]), seed=seed, params=step.params)
        base = [fb.ContextAffine(net(2 * features))]
    repeat = fb.Repeat(step, layers)
    bijector = fb.Chain([fb.ActNorm(features, dtype=dtype), repeat, *base])
    return flow_of(bijector, data_bijector, (features,), dtype, context, standardize_context, name)
