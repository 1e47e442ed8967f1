"""The functions of a flow that `FlowModel` calls and exports: any batch size, inputs checked.

What reaches a served function has not passed any Python of this package, and TensorFlow itself
checks dtypes only. So shapes are checked in the graph: an affine layer would broadcast rows of
width 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.evaluation import NoiseSource, evaluating
from tfp_flows.distributions import Dequantized
from tfp_flows.model.data_checks import continuous_part
from tfp_flows.model.sampling import (
    SEED,
    TEMPERATURE,
    N,
    checked_draws,
    draws,
    latent_sampler,
    require,
    spread,
)
from tfp_flows.saving.verification import SEEDED

tfd = tfp.distributions


def signatures(flow: tfd.Distribution, pixel_dtype: Any = None) -> dict[str, Callable]:
    """The `tf.function`s of a flow by name, for any batch size.

    `log_prob(x)` and `sample(n, seed, temperature)` for every distribution; `encode(x)` (data ->
    latent) and `decode(z)` (latent -> data) where it has a bijector. Those of a conditional flow
    take a `context` as last argument: one for each example, or one for all. When called, they raise
    `tf.errors.InvalidArgumentError` for rows or contexts of the wrong shape, if there is neither
    one context nor one for each row, and as `latent_sampler` does.

    Args:
      flow: the distribution.
      pixel_dtype: of the pixels that `Dequantized` takes and gives; None: its own.

    Raises:
      ValueError: if there is a `pixel_dtype` for a flow without pixels, or it cannot hold them.
    """
    pixels = flow if isinstance(flow, Dequantized) else None
    continuous = continuous_part(flow)
    x_spec, given_spec = _x_spec(flow, pixel_dtype), _context_spec(continuous)

    def to_data(values):
        return tf.cast(pixels.quantize(values), x_spec.dtype) if pixels else values

    @tf.function(input_signature=[x_spec, *given_spec])
    def log_prob(x, context=None):
        return _log_prob(flow, _shaped(x, x_spec), context)

    bijector = getattr(continuous, "bijector", None)
    if bijector is None:

        @tf.function(input_signature=[N, SEED, *given_spec])
        def sample(n, seed, context=None):
            n, seed, _ = checked_draws(n, seed)
            rows = tf.reduce_sum(n)  # of each row's seed, n is 1
            given = _given(continuous, context, rows)
            return to_data(draws(continuous, n, seed, given))[:rows]

        return {"log_prob": log_prob, "sample": sample}

    def features(context, rows) -> dict[str, tf.Tensor]:
        given = _given(continuous, context, rows)
        if not given:
            return {}
        encoded = continuous.encode_context(given["context"])
        return {"context": spread(encoded, tf.maximum(rows, 1))}

    draw = latent_sampler(flow)

    def decoded(z, context):
        rows = tf.shape(z)[0]
        return to_data(bijector.forward(_never_empty(z), **features(context, rows)))[:rows]

    if TEMPERATURE in draw.input_signature:

        @tf.function(input_signature=[*draw.input_signature, *given_spec])
        def sample(n, seed, temperature, context=None):
            return decoded(draw(n, seed, temperature), context)

    else:

        @tf.function(input_signature=[*draw.input_signature, *given_spec])
        def sample(n, seed, context=None):
            return decoded(draw(n, seed), context)

    base = continuous.distribution
    z_spec = tf.TensorSpec([None, *base.event_shape], base.dtype, name="z")

    @tf.function(input_signature=[x_spec, *given_spec])
    def encode(x, context=None):
        x = _shaped(x, x_spec)
        rows = tf.shape(x)[0]
        values = _never_empty(x)
        if pixels:  # encoded at the middle of their bins
            with tf.control_dependencies(pixels.validate_pixels(values)):
                values = pixels.bin_centers(values)
        return bijector.inverse(values, **features(context, rows))[:rows]

    @tf.function(input_signature=[z_spec, *given_spec])
    def decode(z, context=None):
        return decoded(_shaped(z, z_spec), context)

    return {"log_prob": log_prob, "sample": sample, "encode": encode, "decode": decode}


def seeded_log_prob(flow: tfd.Distribution, specs: Sequence[tf.TensorSpec]) -> Callable:
    """The function `(seed, x[, context])`: `log_prob` with all its noise from one seed.

    Args:
      flow: the distribution.
      specs: the signature of its `log_prob`.
    """

    @tf.function(input_signature=[tf.TensorSpec([2], tf.int32, name="seed"), *specs])
    def log_prob(seed, x, context=None):
        with evaluating(noise=NoiseSource(lambda: seed)):
            return _log_prob(flow, _shaped(x, specs[0]), context)

    return log_prob


def reference_candidates(
    flow: tfd.Distribution, functions: Mapping[str, Callable]
) -> dict[str, Callable]:
    """Functions whose values can tell two flows apart, the most telling first.

    Args:
      flow: the distribution.
      functions: its `signatures`.
    """
    log_prob = functions["log_prob"]
    by_name = {"log_prob": log_prob, SEEDED: seeded_log_prob(flow, log_prob.input_signature)}
    return by_name | ({"encode": functions["encode"]} if "encode" in functions else {})


def _x_spec(flow: tfd.Distribution, pixel_dtype: Any) -> tf.TensorSpec:
    dtype = tf.as_dtype(pixel_dtype or flow.dtype)
    if pixel_dtype is not None and not isinstance(flow, Dequantized):
        raise ValueError(f"pixel_dtype is for flows.Dequantized alone, not for {flow!r}.")
    if isinstance(flow, Dequantized) and not (dtype.is_integer and dtype.max >= flow.levels - 1):
        raise ValueError(f"pixel_dtype={dtype.name!r} cannot hold {flow.levels} levels.")
    return tf.TensorSpec([None, *flow.event_shape], dtype, name="x")


def _context_spec(flow: tfd.Distribution) -> list[tf.TensorSpec]:
    shape = getattr(flow, "context_shape", None)
    if shape is None:
        return []
    return [tf.TensorSpec([None, *shape], flow.context_dtype, name="context")]


def _log_prob(flow: tfd.Distribution, x: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
    rows = tf.shape(x)[0]
    return flow.log_prob(_never_empty(x), **_given(flow, context, rows))[:rows]


def _shaped(values: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    # TensorFlow would drop an assertion, since the signature states the shape.
    return tf.ensure_shape(values, spec.shape, name=f"shape_of_{spec.name}")


def _given(
    flow: tfd.Distribution, context: tf.Tensor | None, rows: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The checked context as a keyword argument, padded as `_never_empty` pads the rows."""
    if context is None:
        return {}
    (spec,) = _context_spec(flow)
    context = _shaped(context, spec)
    found = tf.shape(context)[0]
    check = require(
        tf.equal(found, rows) | tf.equal(found, 1),
        "Give one context for each row, or one for all. Contexts, rows:",
        [found, rows],
    )
    with tf.control_dependencies([check]):
        return {"context": _never_empty(context)}


def _never_empty(values: tf.Tensor) -> tf.Tensor:
    """Pads an empty batch to one example: oneDNN's convolutions give it the wrong shape."""
    missing = tf.cast(tf.equal(tf.shape(values)[0], 0), tf.int32)
    padding = tf.zeros(tf.concat([[missing], tf.shape(values)[1:]], 0), values.dtype)
    return tf.concat([values, padding], 0)
