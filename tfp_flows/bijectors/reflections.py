"""Orthogonal matrices as products of Householder reflections."""

from __future__ import annotations

import tensorflow as tf

from tfp_flows.core.triangular import triangular_solve


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
