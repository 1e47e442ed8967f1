"""Sylvester flows: planar flows with several hidden units."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.linear import orthogonal
from tfp_flows.bijectors.planar import Amortized
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.numerics import triangular_solve
from tfp_flows.core.shapes import like
from tfp_flows.solvers.implicit import implicit_inverse
from tfp_flows.solvers.root import above_minus_one, search_tanh_root, slope_at


class Sylvester(Amortized):
    r"""Transforms a subspace of `rank` dimensions: a planar flow with that many hidden units.

    $$ y = x + Q R \tanh(\tilde R Q^T x + b), \qquad
       \log|\det J| = \textstyle\sum_i \log\big(1 + r_{ii} \tilde r_{ii} (1 - \tanh_i^2)\big) $$

    with orthonormal columns in `Q`, a product of `rank` Householder reflections, and upper
    triangular `R` and `R~`. `forward` is explicit, as that of `Planar`. `inverse` solves `rank`
    scalar equations per example, one after the other: in the coordinates `Q^T y` the system is
    triangular. Each has exactly one solution, because `r_ii r~_ii = m(.)` and `r~_ii = exp(.)`,
    where `m` maps to numbers above -0.999, and 0 to 0. The layer starts as the identity, with
    `R = 0`, `R~ = I` and a random `Q`.

    Source: Sylvester Normalizing Flows for Variational Inference, arXiv 1803.05649 (the
    Householder variant, whose `Q` may be any).

    Args:
      features: size of a vector.
      rank: dimension of the subspace, at most `features`.
      conditioner: a Keras layer, `tf.Module` or function from contexts `[n, k]` to changes of the
        parameters, `[n, rank * (features + rank + 2)]`, in the order of `params`: every example
        then has its own parameters. None: no context is read.
      seed: of `Q`; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      params: variable to use in place of a new one: the vectors of the reflections; a matrix, row
        by row, with `R` above its diagonal, `R~` transposed below, and on it what `m` maps to
        `r_ii r~_ii`; the logarithms of `r~_ii`; and `b`.
      name: name of the bijector.

    Raises:
      ValueError: if `features < 1`, or if `rank` is not in 1 ... `features`; on a call, if vectors
        have another size, if a context is missing, or if the conditioner's output has another
        width.

    Example:
      >>> sylvester = Sylvester(3, rank=2, seed=0)
      >>> _ = sylvester.params.assign_add(tf.ones_like(sylvester.params))
      >>> y = sylvester.forward([[1.0, 2.0, 3.0]])
      >>> np.round(sylvester.inverse(tf.identity(y)), 4)
      array([[1., 2., 3.]], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        rank: int,
        conditioner: Any = None,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        params: tf.Variable | None = None,
        name: str = "sylvester",
    ):
        if not 1 <= rank <= features:
            raise ValueError(f"rank must be in 1 ... {features}, the features, got {rank}.")
        self._rank = int(rank)
        super().__init__(features, conditioner, seed, dtype, params, name, rank=rank)

    def _initial_params(self, random: np.random.RandomState) -> np.ndarray:
        vectors = random.normal(size=self._rank * self._features)
        return np.concatenate([vectors, np.zeros(self._rank * (self._rank + 2))])

    def _constrained(self, value: tf.Tensor, context: Context) -> tuple:
        """`Q`, `R`, `R~`, the products of their diagonals, and `b`."""
        rank, features = self._rank, self._features
        sizes = rank * features, rank**2, rank, rank
        vectors, matrix, log_inner, b = self._params_of(value, context, *sizes)
        batch = tf.shape(b)[:-1]
        vectors = tf.reshape(vectors, tf.concat([batch, [rank, features]], 0))
        matrix = tf.reshape(matrix, tf.concat([batch, [rank, rank]], 0))
        products = above_minus_one(tf.linalg.diag_part(matrix))
        diagonal = tf.exp(log_inner)
        outer = tf.linalg.set_diag(tf.linalg.band_part(matrix, 0, -1), products / diagonal)
        inner = tf.linalg.band_part(tf.linalg.matrix_transpose(matrix), 0, -1)
        inner = tf.linalg.set_diag(inner, diagonal)
        return orthogonal(vectors, rank), outer, inner, products, b

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        q, outer, inner, products, b = self._constrained(x, context)
        tanh = tf.tanh(_times(inner, _times(q, x, transpose=True)) + b)
        log_det = tf.reduce_sum(tf.math.log(slope_at(tanh, products)), -1)
        return x + _times(q, _times(outer, tanh)), log_det

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        q, outer, inner, products, b = self._constrained(y, context)
        data = _times(q, y, transpose=True)
        fixed = [tf.stop_gradient(t) for t in (outer, inner, products, b)]
        slopes: list[tf.Tensor] = []  # of the tanh, at the root

        def evaluate(latent):
            tanh = tf.tanh(_times(inner, latent) + b)
            slopes.append(tf.stop_gradient(1 - tf.square(tanh)))
            return latent + _times(outer, tanh)

        def solve_transposed(_, d):
            jacobian = tf.linalg.matmul(fixed[0] * slopes[-1][..., tf.newaxis, :], fixed[1])
            jacobian += tf.eye(self._rank, dtype=y.dtype)
            jacobian = tf.linalg.matrix_transpose(jacobian)
            return triangular_solve(jacobian, d[..., tf.newaxis], lower=True)[..., 0]

        latent = implicit_inverse(
            evaluate, data, lambda data: self._search(data, *fixed), solve_transposed
        )
        tanh = tf.tanh(_times(inner, latent) + b)
        log_det = -tf.reduce_sum(tf.math.log(slope_at(tanh, products)), -1)
        return y - _times(q, _times(outer, tanh)), log_det

    def _search(
        self,
        data: tf.Tensor,
        outer: tf.Tensor,
        inner: tf.Tensor,
        products: tf.Tensor,
        b: tf.Tensor,
    ) -> tf.Tensor:
        """The latent's coordinates in the subspace from those of the data, from the last one on."""

        def step(count, latent, tanh):
            i = self._rank - 1 - count
            outer_row, inner_row = (tf.gather(matrix, i, axis=-2) for matrix in (outer, inner))
            rest = tf.gather(data, i, axis=-1) - tf.reduce_sum(outer_row * tanh, -1)
            shift = tf.gather(b, i, axis=-1) + tf.reduce_sum(inner_row * latent, -1)
            value = tf.gather(inner_row, i, axis=-1) * rest + shift
            unit = tf.tanh(search_tanh_root(value, tf.gather(products, i, axis=-1)))
            entry = rest - tf.gather(outer_row, i, axis=-1) * unit
            one_hot = tf.one_hot(i, self._rank, dtype=data.dtype)  # entry i is still 0 in both
            latent += entry[..., tf.newaxis] * one_hot
            tanh += unit[..., tf.newaxis] * one_hot
            return count + 1, like(latent, data), like(tanh, data)

        zeros = tf.zeros_like(data)
        _, latent, _ = tf.while_loop(lambda count, *_: count < self._rank, step, (0, zeros, zeros))
        return tf.stop_gradient(latent)

    def _describe(self) -> str:
        return f"{super()._describe()}, rank {self._rank}"


def _times(matrix: tf.Tensor, vectors: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """Matrix times vector: one matrix for all `[..., n]`, or one for each example."""
    if matrix.shape.rank == 2:
        return tf.tensordot(vectors, matrix, [[-1], [0 if transpose else 1]])
    return tf.linalg.matvec(matrix, vectors, transpose_a=transpose)
