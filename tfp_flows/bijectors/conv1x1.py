"""A learned, invertible mixing of channels with a log-det that is a sum."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.channel_affine import ChannelMap
from tfp_flows.core import FlowBijector
from tfp_flows.core.numerics import triangular_solve
from tfp_flows.core.random_values import random_state


class Invertible1x1Conv(FlowBijector):
    r"""Multiplies the channel vector at every position by an invertible matrix.

    From data to latent, the direction that training needs, it is a product; only sampling
    inverts it (two triangular solves of the small matrix for the whole batch):

    $$ x = y W, \qquad W = P L (U + \operatorname{diag}(\sigma e^{s})), \qquad
       \log|\det J| = -n \textstyle\sum s $$

    with a fixed permutation `P` and signs `σ`, unit lower triangular `L`, strictly upper
    triangular `U`, and `n` positions. It starts as a random rotation, and stays invertible.

    Source: Glow, arXiv 1807.03039, section 3.2 (LU parametrisation).

    Args:
      channels: size of the last axis; 1 or more. Vectors, images and all else will do.
      seed: of the initial rotation; from TensorFlow's global generator if None.
      dtype: of the variables; they are cast to that of the input.
      lower, upper, log_diagonal, signs, permutation: variables to use in place of new ones.
      name: name of the bijector.

    Raises:
      ValueError: the input has another number of channels; or some variables are given, not all.

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
        self.lower = given["lower"]
        self.upper = given["upper"]
        self.log_diagonal = given["log_diagonal"]
        self.signs = given["signs"]
        self.permutation = given["permutation"]
        super().__init__(
            forward_min_event_ndims=1,
            is_constant_jacobian=True,
            parameters={"channels": channels, "seed": seed, "dtype": dtype, "name": name, **given},
            name=name,
        )

    def _triangles(self, dtype):
        eye = tf.eye(self.lower.shape[0], dtype=dtype)
        lower = tf.linalg.band_part(tf.cast(self.lower, dtype), -1, 0)
        lower = tf.linalg.set_diag(lower, tf.ones_like(eye[0]))
        diagonal = tf.cast(self.signs, dtype) * tf.exp(tf.cast(self.log_diagonal, dtype))
        upper = tf.linalg.band_part(tf.cast(self.upper, dtype), 0, -1)
        return eye, lower, tf.linalg.set_diag(upper, diagonal)

    def _reinitialised(self, turn):
        random = random_state(self.parameters["seed"], turn)
        fresh = _random_rotation(self.lower.shape[0], random)
        return [(getattr(self, name), value) for name, value in fresh.items()]

    is_channel_map = True

    def channel_map(self, value: tf.Tensor, forward: bool) -> ChannelMap:
        """What it does to channels of the dtype of `value`, whose shape it checks."""
        self._check_shape(value)
        eye, lower, upper = self._triangles(value.dtype)
        log_det = tf.reduce_sum(tf.cast(self.log_diagonal, value.dtype))
        if not forward:
            weight = tf.gather(tf.matmul(lower, upper), self.permutation)
            return ChannelMap(None, weight, None, None, log_det)
        rows = triangular_solve(lower, eye, lower=True)
        inverse = triangular_solve(upper, rows, lower=False)
        weight = tf.gather(inverse, self.permutation, axis=1)
        return ChannelMap(None, weight, None, None, -log_det)

    def _forward_and_log_det(self, x, context):
        apply = self.channel_map(x, forward=True)
        return apply(x), apply.log_det

    def _inverse_and_log_det(self, y, context):
        apply = self.channel_map(y, forward=False)
        return apply(y), apply.log_det

    def diagnostics(self, y, context=None):
        return {"condition": self.channel_map(y, forward=False).condition_number()}

    def _check_shape(self, value):
        if not value.shape[-1:].is_compatible_with(self.log_diagonal.shape):
            raise ValueError(
                f"{self.name} was made for {self.log_diagonal.shape[0]} channels, got a tensor of "
                f"shape {value.shape}."
            )

    def _describe(self):
        return str(self.log_diagonal.shape[0])


def _random_rotation(channels: int, random: np.random.RandomState) -> dict[str, np.ndarray]:
    """The LU parts of a random orthogonal matrix."""
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
        # tf.linalg.lu gives rotation[permutation] = L U; the rows go back by the inverse of it.
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
