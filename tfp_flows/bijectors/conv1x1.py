"""A learned, invertible mixing of channels with a log-det that is a sum."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.linear import Linear
from tfp_flows.core.bijector import Pair
from tfp_flows.core.numerics import triangular_solve
from tfp_flows.core.random_values import random_state


class Invertible1x1Conv(Linear):
    r"""Multiplies the channel vector at every position by an invertible matrix.

    From data to latent, the direction of training, it is one product; sampling inverts the matrix
    (two small triangular solves for the whole batch):

    $$ x = y W, \qquad W = P L (U + \operatorname{diag}(\sigma e^{s})), \qquad
       \log|\det J| = -n \textstyle\sum s $$

    with a fixed permutation `P` and signs `σ`, unit lower triangular `L`, strictly upper
    triangular `U`, and `n` positions. It starts as a random rotation, and is always invertible.

    Source: Glow, arXiv 1807.03039, section 3.2 (LU parametrisation).

    Args:
      channels: size of the last axis, 1 or more; events may be vectors, images or others.
      seed: of the initial rotation; from TensorFlow's global generator if None.
      dtype: of the variables; they are cast to that of the input.
      lower, upper, log_diagonal, signs, permutation: variables of shapes `[channels, channels]`
        (the first two) and `[channels]`, for `L`, `U`, `s`, `σ` and `P`, to use in place of new
        ones: all or none.
      name: name of the bijector.

    Raises:
      ValueError: if `channels < 1`, or if some variables are given but not all; on a call, if the
        input has another number of channels.

    Example:
      >>> conv = Invertible1x1Conv(3, seed=0)
      >>> x = tf.constant([[1.0, 2.0, 3.0]])
      >>> np.allclose(conv.inverse(conv.forward(x)), x, atol=1e-5)
      True
    """

    def __init__(
        self,
        channels: int,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        lower: tf.Variable | None = None,
        upper: tf.Variable | None = None,
        log_diagonal: tf.Variable | None = None,
        signs: tf.Variable | None = None,
        permutation: tf.Variable | None = None,
        name: str = "conv1x1",
    ):
        given = {
            "lower": lower,
            "upper": upper,
            "log_diagonal": log_diagonal,
            "signs": signs,
            "permutation": permutation,
        }
        missing = [k for k, v in given.items() if v is None]
        if missing and len(missing) < len(given):
            raise ValueError(f"Give all of a convolution's variables or none; missing: {missing}.")
        if missing:
            given = _variables(_random_rotation(channels, random_state(seed)), dtype)
        self.lower, self.upper, self.log_diagonal, self.signs, self.permutation = given.values()
        parameters = {"channels": channels, "seed": seed, "dtype": dtype, "name": name, **given}
        super().__init__(channels, parameters, name)

    def _matrix(self, dtype: tf.DType, forward: bool) -> Pair:
        eye, log_diagonal = tf.eye(self._features, dtype=dtype), tf.cast(self.log_diagonal, dtype)
        lower = tf.linalg.band_part(tf.cast(self.lower, dtype), -1, 0)
        lower = tf.linalg.set_diag(lower, tf.ones_like(log_diagonal))
        upper = tf.linalg.band_part(tf.cast(self.upper, dtype), 0, -1)
        upper = tf.linalg.set_diag(upper, tf.cast(self.signs, dtype) * tf.exp(log_diagonal))
        log_det = tf.reduce_sum(log_diagonal)
        if not forward:
            return tf.gather(tf.matmul(lower, upper), self.permutation), log_det
        rows = triangular_solve(lower, eye, lower=True)
        inverse = triangular_solve(upper, rows, lower=False)
        return tf.gather(inverse, self.permutation, axis=1), -log_det

    def _reinitialised(self, index: int) -> list[tuple[tf.Variable, np.ndarray]]:
        random = random_state(self.parameters["seed"], index)
        rotation = _random_rotation(self._features, random)
        return [(getattr(self, name), value) for name, value in rotation.items()]


def _random_rotation(channels: int, random: np.random.RandomState) -> dict[str, np.ndarray]:
    """The LU factors of a random orthogonal matrix."""
    if channels < 1:
        raise ValueError(f"channels must be 1 or more, got {channels}.")
    rotation = np.linalg.qr(random.normal(size=(channels, channels)))[0]
    lu, permutation = (part.numpy() for part in tf.linalg.lu(tf.constant(rotation)))
    diagonal = np.diagonal(lu)
    return {
        "lower": np.tril(lu, -1),
        "upper": np.triu(lu, 1),
        "log_diagonal": np.log(np.abs(diagonal)),
        "signs": np.sign(diagonal),
        # tf.linalg.lu gives rotation[permutation] = L U; W needs the inverse permutation.
        "permutation": np.argsort(permutation).astype(np.int32),
    }


def _variables(values: dict[str, np.ndarray], dtype: tf.DType) -> dict[str, tf.Variable]:
    return {
        name: tf.Variable(
            value,
            dtype=tf.int32 if name == "permutation" else dtype,
            trainable=name not in ("signs", "permutation"),
            name=name,
        )
        for name, value in values.items()
    }
