"""Samples of one seed, or of one seed for each row, in a graph that checks every argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.model.data_checks import continuous_part

tfd = tfp.distributions

N = tf.TensorSpec(None, tf.int32, name="n")
SEED = tf.TensorSpec(None, tf.int32, name="seed")
TEMPERATURE = tf.TensorSpec(None, tf.float32, name="temperature")


def latent_sampler(flow: tfd.Distribution) -> Callable:
    """The function `(n, seed[, temperature]) -> z` of a flow with a base distribution.

    It gives either `n` latents of one seed, from `n` and `temperature` of shape [] and a seed [2];
    or one latent for each of many seeds [rows, 2], from as many temperatures, and ones for `n`. The
    latter equal what each seed gives on its own, so a server may join and split such requests. It
    takes a temperature if the base has a mean to scale about. When called, it raises
    `tf.errors.InvalidArgumentError` for other shapes, a negative `n`, and temperatures that are
    negative or not finite.

    Args:
      flow: a distribution with a base, or `Dequantized` around one.
    """
    base = continuous_part(flow).distribution
    if not _has_mean(base):

        @tf.function(input_signature=[N, SEED])
        def draw(n, seed):
            n, seed, _ = checked_draws(n, seed)
            return draws(base, n, seed, {})

        return draw

    @tf.function(input_signature=[N, SEED, TEMPERATURE])
    def draw(n, seed, temperature):
        n, seed, temperature = checked_draws(n, seed, temperature)
        z, mean = draws(base, n, seed, {}), base.mean()
        scale = tf.reshape(temperature, [-1] + [1] * len(base.event_shape))
        return mean + (z - mean) * tf.cast(scale, z.dtype)

    return draw


def checked_draws(
    n: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor | None = None
) -> list[tf.Tensor | None]:
    """The arguments of a function of `latent_sampler`, with assertions on them."""
    batch, is_scalar = tf.shape(n), tf.equal(tf.rank(n), 0)
    checks = [
        require(
            (is_scalar & tf.reduce_all(n >= 0)) | (tf.equal(tf.rank(n), 1) & tf.reduce_all(n == 1)),
            "n must be one number of 0 or more; or, with a seed for each row, 1 for each. Got",
            n,
        ),
        require(
            _has_shape(seed, tf.concat([batch, [2]], 0)),
            "seed must have shape [2]; or, if n has shape [rows], shape [rows, 2]. Got",
            tf.shape(seed),
        ),
    ]
    if temperature is not None:
        checks += [
            require(
                _has_shape(temperature, batch),
                "temperature must have the shape of n. Got",
                tf.shape(temperature),
            ),
            require(
                tf.reduce_all(tf.math.is_finite(temperature) & (temperature >= 0.0)),
                "temperature must be finite and 0 or more. Got",
                temperature,
            ),
        ]
    with tf.control_dependencies(checks):
        return [None if t is None else tf.identity(t) for t in (n, seed, temperature)]


def draws(
    distribution: tfd.Distribution, n: tf.Tensor, seed: tf.Tensor, given: dict[str, tf.Tensor]
) -> tf.Tensor:
    """`n` samples of one seed, or one sample for each row's seed.

    Args:
      distribution: whose samples.
      n, seed: as for a function of `latent_sampler`.
      given: `{"context": [n or 1, *context_shape]}`, or empty.
    """

    def of_one_seed():
        return distribution.sample(tf.reshape(n, []), seed=tf.reshape(seed, [2]), **given)

    def of_a_row(row):
        own = {name: values[tf.newaxis] for name, values in row["given"].items()}
        return distribution.sample(1, seed=row["seed"], **own)[0]

    def of_each_seed():
        seeds = tf.reshape(seed, [-1, 2])
        contexts = {name: spread(values, tf.size(n)) for name, values in given.items()}
        spec = tf.TensorSpec(distribution.event_shape, distribution.dtype)
        rows = {"seed": seeds, "given": contexts}
        return tf.map_fn(of_a_row, rows, fn_output_signature=spec)

    samples = tf.cond(tf.equal(tf.rank(n), 0), of_one_seed, of_each_seed)
    return tf.ensure_shape(samples, [None, *distribution.event_shape])


def spread(values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`[rows, ...]` from `[rows, ...]` or `[1, ...]`."""
    return tf.broadcast_to(values, tf.concat([[rows], tf.shape(values)[1:]], 0))


def require(condition: tf.Tensor, message: str, found: Any) -> tf.Operation:
    """An assertion, which raises `tf.errors.InvalidArgumentError`."""
    return tf.debugging.Assert(condition, [message, found])


def _has_shape(tensor: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    found = tf.shape(tensor)
    return tf.cond(
        tf.equal(tf.size(found), tf.size(shape)),
        lambda: tf.reduce_all(tf.equal(found, shape)),
        lambda: False,
    )


def _has_mean(base: tfd.Distribution) -> bool:
    try:
        return bool(tf.reduce_all(tf.math.is_finite(base.mean())))
    except NotImplementedError:
        return False
