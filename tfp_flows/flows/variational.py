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
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.layers import as_units, check_counts

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
    """Planar layers, then an `ActNorm` that sets location and scale of the distribution.

    Samples and their densities (`experimental_sample_and_log_prob`) are cheap and in closed form;
    the density of other data, as exact, takes the search for a root in every layer.

    With a context the flow is amortised, a posterior `q(z | x)` for every `x`: networks map the
    context to offsets of each layer's parameters, and to the mean and the scales of the Gaussian
    base (`ContextAffine`). All offsets start at zero.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770.

    Args:
      hidden: units of the hidden layers of the context's networks; not used without a context.
      context_shape: `(k,)` for a flow conditioned on vectors, as `context=`, `[..., k]`. None: the
        flow takes no context.
      seed: of the layers' initial values; None: from TensorFlow's global generator.

    Raises:
      ValueError: if the event or the context is not a vector, or if `layers < 1`.

    Example:
      >>> flow = planar(event_shape=(2,), layers=4, seed=0)
      >>> z, log_prob = flow.experimental_sample_and_log_prob(3, seed=1)
      >>> bool(tf.reduce_all(tf.abs(flow.log_prob(z) - log_prob) < 1e-4))
      True
    """
    build = FlowBuilder(name, event_shape, dtype, data_bijector, context_shape, standardize_context)
    return _flow(build, fb.Planar, layers, hidden, seed)


@ready_made(like=planar)
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
    """Radial layers in place of those of `flows.planar`; both directions are in closed form.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770.

    Raises:
      ValueError: if the event or the context is not a vector, or if `layers < 1`.

    Example:
      >>> radial(event_shape=(2,), layers=4, context_shape=(3,)).condition(tf.ones([5, 3]))
      Conditioned(Flow('radial', ...), batch_shape=(5,))
    """
    build = FlowBuilder(name, event_shape, dtype, data_bijector, context_shape, standardize_context)
    return _flow(build, fb.Radial, layers, hidden, seed)


@ready_made(like=planar)
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
    """Sylvester layers in place of those of `flows.planar`.

    A layer does what `rank` planar layers do, in one matrix product. The density of other data than
    samples takes a search for `layers * rank` roots.

    Source: Sylvester Normalizing Flows for Variational Inference, arXiv 1803.05649.

    Args:
      rank: in how many directions each layer transforms, at most the number of features; None: in
        all of them, or 8 if there are more.

    Raises:
      ValueError: if the event or the context is not a vector, if `layers < 1`, or if the rank is
        not in `1 ... features`.

    Example:
      >>> sylvester(event_shape=(6,), rank=3).sample(4, seed=0).shape
      TensorShape([4, 6])
    """
    build = FlowBuilder(name, event_shape, dtype, data_bijector, context_shape, standardize_context)
    make = functools.partial(fb.Sylvester, rank=min(*build.shape, 8) if rank is None else rank)
    return _flow(build, make, layers, hidden, seed)


def _flow(
    build: FlowBuilder,
    make: Callable[..., Amortized],
    layers: int,
    hidden: Sequence[int] | int,
    seed: int | None,
) -> Flow:
    check_counts(layers=layers)
    (features,), dtype = build.shape, build.dtype
    layer, base = make(features, seed=seed, dtype=dtype), []
    if build.context is not None:
        net = functools.partial(mlp, *build.context, hidden=as_units(hidden), dtype=dtype.name)
        count = layer.params.shape[0]
        layer = make(features, conditioner=net(count), seed=seed, params=layer.params)
        base = [fb.ContextAffine(net(2 * features))]
    repeat = fb.Repeat(layer, layers)
    return build.flow(fb.Chain([fb.ActNorm(features, dtype=dtype), repeat, *base]))
