"""Numerical helpers that work in every floating-point dtype."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def rounding_unit(dtype: tf.DType) -> float:
    """The distance from 1 to the next larger number, for bfloat16 too, which NumPy does not know.

    Example:
      >>> rounding_unit(tf.bfloat16), rounding_unit(tf.float16)
      (0.0078125, 0.0009765625)
    """
    return 2.0**-7 if dtype == tf.bfloat16 else float(np.finfo(dtype.as_numpy_dtype).eps)


def triangular_solve(matrix: tf.Tensor, rhs: tf.Tensor, **settings) -> tf.Tensor:
    """`tf.linalg.triangular_solve`; what has half precision is solved in float32, then rounded.

    TensorFlow has no kernel for float16 and bfloat16.
    """
    dtype = matrix.dtype
    if dtype.size >= tf.float32.size:
        return tf.linalg.triangular_solve(matrix, rhs, **settings)
    single = (tf.cast(t, tf.float32) for t in (matrix, rhs))
    return tf.cast(tf.linalg.triangular_solve(*single, **settings), dtype)


def moments(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The first row, how far above it the mean is, and the standard deviation, in float64.

    Differences from a row keep the digits of a small spread about a large mean, and the spread of
    equal values is exactly 0.
    """
    rows = tf.cast(rows, tf.float64)
    away = rows - rows[0]
    largest = tf.reduce_max(tf.abs(away), axis=0)
    unit = tf.where(largest > 0.0, largest, tf.ones_like(largest))  # so that no square overflows
    away /= unit
    mean = tf.reduce_mean(away, axis=0)
    variance = tf.reduce_mean(tf.square(away - mean), axis=0)
    return rows[0], unit * mean, unit * tf.sqrt(variance)
