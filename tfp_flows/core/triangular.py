"""Triangular systems in any precision."""

from __future__ import annotations

import tensorflow as tf


def triangular_solve(matrix: tf.Tensor, rhs: tf.Tensor, **settings) -> tf.Tensor:
    """`tf.linalg.triangular_solve`; what has half precision is solved in float32, then rounded.

    TensorFlow has no kernel for float16 and bfloat16.
    """
    dtype = matrix.dtype
    if dtype.size >= tf.float32.size:
        return tf.linalg.triangular_solve(matrix, rhs, **settings)
    single = (tf.cast(t, tf.float32) for t in (matrix, rhs))
    return tf.cast(tf.linalg.triangular_solve(*single, **settings), dtype)
