"""Draws that are served: of one seed, or of a seed for each row, with every argument checked."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

N = tf.TensorSpec(None, tf.int32, name="n")
SEED = tf.TensorSpec(None, tf.int32, name="seed")
TEMPERATURE = tf.TensorSpec(None, tf.float32, name="temperature")


def latent_sampler(flow: tfd.Distribution) -> Callable:
    """The function `(n, seed[, temperature]) -> z` of a flow with a base distribution.

    Either `n` latents of one seed, from `n` and `temperature` of shape [] and a seed [2]; or one
    latent for each of many seeds [rows, 2], from as many temperatures, and ones for `n`. The latter
    equal what each seed gives on its own, so a server may join and cut such requests.

    It takes a temperature where the base has a mean to scale about.

    Raises (when called): `tf.errors.InvalidArgumentError` for other shapes, a negative `n`, and
    temperatures that are negative or not finite.
    """
    base = getattr(flow, "flow", flow).distribution
    if not _has_centre(base):

        @tf.function(input_signature=[N, SEED])
        def draw(n, seed):
            n, seed, _ = checked_draws(n, seed)
            return draws(base, n, seed, {})

        return draw

    @tf.function(input_signature=[N, SEED, TEMPERATURE])
    def draw(n, seed, temperature):
        n, seed, temperature = checked_draws(n, seed, temperature)
        z, centre = draws(base, n, seed, {}), base.mean()
        scale = tf.reshape(temperature, [-1] + [1] * len(base.event_shape))
        return centre + (z - centre) * tf.cast(scale, z.dtype)

    return draw


def checked_draws(n, seed, temperature=None) -> list[tf.Tensor | None]:
    """The arguments of `latent_sampler`, once they are found to be right."""
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


def draws(distribution, n, seed, given: dict[str, tf.Tensor]) -> tf.Tensor:
    """`n` samples of one seed, or one sample of each row's seed; see `latent_sampler`."""

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
    """`[rows, ...]` from as many or from one."""
    return tf.broadcast_to(values, tf.concat([[rows], tf.shape(values)[1:]], 0))


def require(condition: tf.Tensor, message: str, found) -> tf.Operation:
    """Raises `tf.errors.InvalidArgumentError` in a graph unless the condition holds."""
    return tf.debugging.Assert(condition, [message, found])


def _has_shape(tensor: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    found = tf.shape(tensor)
    return tf.cond(
        tf.equal(tf.size(found), tf.size(shape)),
        lambda: tf.reduce_all(tf.equal(found, shape)),
        lambda: False,
    )


def _has_centre(base: tfd.Distribution) -> bool:
    try:
        return bool(tf.reduce_all(tf.math.is_finite(base.mean())))
    except NotImplementedError:
        return False
