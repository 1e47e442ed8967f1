"""Orthogonal and nearly orthogonal linear layers, made of Householder reflections."""

from __future__ import annotations

import tensorflow as tf

from tfp_flows.bijectors.channel_affine import ChannelMap
from tfp_flows.core import FlowBijector
from tfp_flows.core.numerics import triangular_solve
from tfp_flows.core.random_values import random_state


def orthogonal(vectors: tf.Tensor, columns: int | None = None) -> tf.Tensor:
    r"""The product of the reflections that turn each of the vectors round.

    $$ Q = \prod_i \left(I - 2 v_i v_i^T / |v_i|^2\right) = I - V^T T V, \qquad
       T^{-1} = \tfrac12 I + \operatorname{striu}(V V^T) $$

    with unit vectors as the rows of `V`: one triangular solve in place of a loop. A vector of
    zeros stands for no reflection.

    Source: Accumulating Householder transformations, revisited (Joffrain et al., ACM TOMS 2006).

    Args:
      vectors: `[..., count, size]`.
      columns: how many columns of `Q` are wanted, from the first on; all if None.

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


class _Reflecting(FlowBijector):
    """A matrix made of reflections, for the last axis."""

    is_channel_map = True

    def __init__(self, features, reflections, seed, dtype, vectors, parameters, name):
        self._seed = seed
        if vectors is None:
            reflections = features if reflections is None else reflections
            for what, number in (("features", features), ("reflections", reflections)):
                if number < 1:
                    raise ValueError(f"{what} must be 1 or more, got {number}.")
            start = random_state(seed).normal(size=(reflections, features))
            vectors = tf.Variable(start, dtype=dtype, name="vectors")
        self.vectors = vectors
        super().__init__(
            forward_min_event_ndims=1,
            is_constant_jacobian=True,
            parameters={**parameters, "vectors": vectors},
            name=name,
        )

    def _map(self, q: tf.Tensor, forward: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The matrix that multiplies rows from the right, and its log-det; `q` is orthogonal."""
        raise NotImplementedError

    def _reinitialised(self, turn):
        shape = tuple(self.vectors.shape)
        return [(self.vectors, random_state(self._seed, turn).normal(size=shape))]

    def channel_map(self, value: tf.Tensor, forward: bool) -> ChannelMap:
        """What it does to vectors of the dtype of `value`, whose size it checks."""
        if not value.shape[-1:].is_compatible_with(self.vectors.shape[-1:]):
            raise ValueError(
                f"{self.name} was made for {self.vectors.shape[-1]} feature(s), got a tensor of "
                f"shape {value.shape}."
            )
        weight, log_det = self._map(orthogonal(tf.cast(self.vectors, value.dtype)), forward)
        return ChannelMap(None, weight, None, None, log_det)

    def _forward_and_log_det(self, x, context):
        apply = self.channel_map(x, forward=True)
        return apply(x), apply.log_det

    def _inverse_and_log_det(self, y, context):
        apply = self.channel_map(y, forward=False)
        return apply(y), apply.log_det

    def diagnostics(self, y, context=None):
        return {"condition": self.channel_map(y, forward=False).condition_number()}

    def _describe(self):
        count, features = self.vectors.shape
        return f"{features}, {count} reflection(s)"


class Householder(_Reflecting):
    r"""Turns vectors by an orthogonal matrix: a product of Householder reflections.

    $$ y = Q x, \qquad Q = \prod_i \left(I - 2 v_i v_i^T / |v_i|^2\right), \qquad
       \log|\det J| = 0 $$

    The matrix is computed first, then there is one product, in either direction. It starts at
    random reflections.

    Source: Improving Variational Auto-Encoders using Householder Flow, arXiv 1611.09630.

    Args:
      features: size of the last axis; the leading dimensions are of any number.
      reflections: how many; any rotation takes at most `features`, which is the default.
      seed: of the start; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      vectors: variable `[reflections, features]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: a number below 1; or on a call, another size of the last axis.

    Example:
      >>> turn = Householder(2, vectors=tf.Variable([[1.0, 0.0]]))
      >>> turn.forward([[3.0, 4.0]]).numpy()
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
        super().__init__(features, reflections, seed, dtype, vectors, parameters, name)

    def _map(self, q, forward):
        return tf.transpose(q) if forward else q, tf.zeros([], q.dtype)


class QRLinear(_Reflecting):
    r"""Multiplies vectors by an orthogonal and a triangular matrix.

    From data to latent, the direction that training needs, it is one product; only sampling
    inverts the triangle, once for the whole batch:

    $$ x = R Q^T y, \qquad R = \operatorname{diag}(e^{s}) + \operatorname{striu}(U), \qquad
       \log|\det J| = -\textstyle\sum s $$

    with `Q` as in `Householder`. It starts as a random orthogonal matrix, and stays invertible.

    Source: Emerging Convolutions for Generative Normalizing Flows, arXiv 1901.11137.

    Args:
      features, reflections, seed, dtype, vectors: as for `Householder`.
      upper: variable `[features, features]`, used above its diagonal, in place of a new one.
      log_diagonal: variable `[features]`, `s`, in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: as for `Householder`.

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
        parameters = dict(locals())
        if upper is None:
            upper = tf.Variable(tf.zeros([features, features], dtype), name="upper")
        if log_diagonal is None:
            log_diagonal = tf.Variable(tf.zeros([features], dtype), name="log_diagonal")
        self.upper, self.log_diagonal = upper, log_diagonal
        parameters |= {"upper": upper, "log_diagonal": log_diagonal}
        super().__init__(features, reflections, seed, dtype, vectors, parameters, name)

    def _map(self, q, forward):
        log_diagonal = tf.cast(self.log_diagonal, q.dtype)
        triangle = tf.linalg.band_part(tf.cast(self.upper, q.dtype), 0, -1)
        triangle = tf.linalg.set_diag(triangle, tf.exp(log_diagonal))
        log_det = tf.reduce_sum(log_diagonal)
        if not forward:
            return tf.matmul(q, triangle, transpose_b=True), log_det
        inverse = triangular_solve(triangle, tf.transpose(q), lower=False, adjoint=True)
        return inverse, -log_det
