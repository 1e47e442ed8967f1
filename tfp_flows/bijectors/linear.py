"""Linear layers of the last axis: a base class, and those made of Householder reflections."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.channel_affine import ChannelMap
from tfp_flows.core import FlowBijector
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.numerics import triangular_solve
from tfp_flows.core.random_values import random_state
from tfp_flows.core.shapes import check_event_shape
from tfp_flows.core.variables import given_or_new


class Linear(FlowBijector):
    """Multiplies vectors by a matrix; a subclass computes the matrix and its log-det.

    Args:
      features: size of the last axis.
      parameters: the constructor's arguments, made variables included.
      name: name of the bijector.
    """

    is_channel_map = True  # a Chain multiplies the matrices of neighbours first

    def __init__(self, features: int, parameters: dict[str, Any], name: str):
        self._features = int(features)
        super().__init__(
            forward_min_event_ndims=1,
            is_constant_jacobian=True,
            parameters=parameters,
            name=name,
        )

    def _matrix(self, dtype: tf.DType, forward: bool) -> Pair:
        """The matrix that multiplies row vectors from the right, and its log-det."""
        raise NotImplementedError

    def channel_map(self, value: tf.Tensor, forward: bool) -> ChannelMap:
        """The map of vectors of the dtype of `value`, whose size it checks."""
        check_event_shape(self.name, [self._features], value)
        matrix, log_det = self._matrix(value.dtype, forward)
        return ChannelMap(None, matrix, None, None, log_det)

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        channel_map = self.channel_map(x, forward=True)
        return channel_map(x), channel_map.log_det

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        channel_map = self.channel_map(y, forward=False)
        return channel_map(y), channel_map.log_det

    def diagnostics(self, y: tf.Tensor, context: Context = None) -> dict[str, tf.Tensor]:
        return {"condition": self.channel_map(y, forward=False).condition_number()}

    def _describe(self) -> str:
        return str(self._features)


def orthogonal(vectors: tf.Tensor, columns: int | None = None) -> tf.Tensor:
    r"""The product of the Householder reflections along the given vectors.

    $$ Q = \prod_i \left(I - 2 v_i v_i^T / |v_i|^2\right) = I - V^T T V, \qquad
       T^{-1} = \tfrac12 I + \operatorname{striu}(V V^T) $$

    with unit vectors as the rows of `V`: one triangular solve replaces a loop. A vector of zeros
    is no reflection.

    Source: Accumulating Householder transformations, revisited (Joffrain et al., ACM TOMS 2006).

    Args:
      vectors: `[..., count, size]`.
      columns: how many columns of `Q` to compute, from the first on; all if None.

    Returns:
      `[..., size, columns]`, with orthonormal columns.

    Example:
      >>> orthogonal(tf.constant([[0.0, 3.0]])).numpy()
      array([[ 1.,  0.],
             [ 0., -1.]], dtype=float32)
    """
    size = vectors.shape[-1]
    squares = tf.reduce_sum(tf.square(vectors), -1, keepdims=True)
    unit = vectors * tf.math.rsqrt(tf.maximum(squares, 1e-12))
    inner = tf.linalg.band_part(tf.matmul(unit, unit, transpose_b=True), 0, -1)
    inner = tf.linalg.set_diag(inner, 0.5 * tf.ones_like(inner[..., 0]))
    right = triangular_solve(inner, unit[..., :columns], lower=False)
    return tf.eye(size, columns, dtype=vectors.dtype) - tf.matmul(unit, right, transpose_a=True)


class Householder(Linear):
    r"""Multiplies vectors by an orthogonal matrix: a product of Householder reflections.

    $$ y = Q x, \qquad Q = \prod_i \left(I - 2 v_i v_i^T / |v_i|^2\right), \qquad
       \log|\det J| = 0 $$

    The matrix is computed first, then there is one product, in either direction. The reflections
    start at random.

    Source: Improving Variational Auto-Encoders using Householder Flow, arXiv 1611.09630.

    Args:
      features: size of the last axis; there may be any number of leading dimensions.
      reflections: number of reflections; `features` of them, the default, make any rotation.
      seed: of the initial vectors; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      vectors: variable `[reflections, features]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: if `features` or `reflections` is below 1; on a call, if the last axis has
        another size.

    Example:
      >>> reflection = Householder(2, vectors=tf.Variable([[1.0, 0.0]]))
      >>> reflection.forward([[3.0, 4.0]]).numpy()
      array([[-3.,  4.]], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        reflections: int | None = None,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        vectors: tf.Variable | None = None,
        name: str = "householder",
    ):
        parameters = dict(locals())
        self._seed = seed
        if vectors is None:
            reflections = features if reflections is None else reflections
            for argument, number in (("features", features), ("reflections", reflections)):
                if number < 1:
                    raise ValueError(f"{argument} must be 1 or more, got {number}.")
            initial = random_state(seed).normal(size=(reflections, features))
            vectors = tf.Variable(initial, dtype=dtype, name="vectors")
        self.vectors = vectors
        super().__init__(features, {**parameters, "vectors": vectors}, name)

    def _orthogonal(self, dtype: tf.DType) -> tf.Tensor:
        return orthogonal(tf.cast(self.vectors, dtype))

    def _matrix(self, dtype: tf.DType, forward: bool) -> Pair:
        q = self._orthogonal(dtype)
        return tf.transpose(q) if forward else q, tf.zeros([], dtype)

    def _reinitialised(self, index: int) -> list[tuple[tf.Variable, np.ndarray]]:
        shape = tuple(self.vectors.shape)
        return [(self.vectors, random_state(self._seed, index).normal(size=shape))]

    def _describe(self) -> str:
        return f"{self._features}, {self.vectors.shape[0]} reflection(s)"


class QRLinear(Householder):
    r"""Multiplies vectors by an orthogonal and a triangular matrix.

    From data to latent, the direction of training, it is one product; sampling inverts the
    triangular matrix, once for the whole batch:

    $$ x = R Q^T y, \qquad R = \operatorname{diag}(e^{s}) + \operatorname{striu}(U), \qquad
       \log|\det J| = -\textstyle\sum s $$

    with `Q` as in `Householder`. It starts as a random orthogonal matrix, and is always invertible.

    Source: Emerging Convolutions for Generative Normalizing Flows, arXiv 1901.11137.

    Args:
      features: size of the last axis; there may be any number of leading dimensions.
      reflections: number of reflections in `Q`; `features` of them, the default, make any rotation.
      seed: of the initial vectors; from TensorFlow's global generator if None.
      dtype: of the variables; they are cast to that of the input.
      vectors: variable `[reflections, features]` of the reflections to use in place of a new one.
      upper: variable `[features, features]`, used above its diagonal, to use in place of a new one.
      log_diagonal: variable `[features]`, `s`, to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: if `features` or `reflections` is below 1; on a call, if the last axis has
        another size.

    Example:
      >>> linear = QRLinear(3, seed=0)
      >>> _ = linear.log_diagonal.assign([0.0, 0.5, -1.0])
      >>> x = tf.constant([[1.0, 2.0, 3.0]])
      >>> np.allclose(linear.inverse(linear.forward(x)), x, atol=1e-5)
      True
    """

    def __init__(
        self,
        features: int,
        reflections: int | None = None,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        vectors: tf.Variable | None = None,
        upper: tf.Variable | None = None,
        log_diagonal: tf.Variable | None = None,
        name: str = "qr_linear",
    ):
        super().__init__(features, reflections, seed, dtype, vectors, name)
        zeros = tf.zeros([features, features], dtype)
        self.upper = given_or_new(upper, zeros, "upper")
        self.log_diagonal = given_or_new(log_diagonal, zeros[0], "log_diagonal")
        self._parameters.update(upper=self.upper, log_diagonal=self.log_diagonal)

    def _matrix(self, dtype: tf.DType, forward: bool) -> Pair:
        q, log_diagonal = self._orthogonal(dtype), tf.cast(self.log_diagonal, dtype)
        triangle = tf.linalg.band_part(tf.cast(self.upper, dtype), 0, -1)
        triangle = tf.linalg.set_diag(triangle, tf.exp(log_diagonal))
        log_det = tf.reduce_sum(log_diagonal)
        if not forward:
            return tf.matmul(q, triangle, transpose_b=True), log_det
        inverse = triangular_solve(triangle, tf.transpose(q), lower=False, adjoint=True)
        return inverse, -log_det
