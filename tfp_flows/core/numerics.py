"""Numerical helpers for all floating-point dtypes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def rounding_unit(dtype: tf.DType) -> float:
    """The distance from 1 to the next larger number; of bfloat16 too, which NumPy lacks.

    Example:
      >>> rounding_unit(tf.bfloat16), rounding_unit(tf.float16)
      (0.0078125, 0.0009765625)
    """
    return 2.0**-7 if dtype == tf.bfloat16 else float(np.finfo(dtype.as_numpy_dtype).eps)


def triangular_solve(matrix: tf.Tensor, rhs: tf.Tensor, **settings) -> tf.Tensor:
    """`tf.linalg.triangular_solve`; in float32 for float16 and bfloat16, which have no kernel."""
    dtype = matrix.dtype
    if dtype.size >= tf.float32.size:
        return tf.linalg.triangular_solve(matrix, rhs, **settings)
    single = (tf.cast(t, tf.float32) for t in (matrix, rhs))
    return tf.cast(tf.linalg.triangular_solve(*single, **settings), dtype)


def moments(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The first row, the mean minus that row, and the standard deviation, in float64.

    Differences from a row keep the digits of a small deviation about a large mean, and the
    deviation of equal values is exactly 0.
    """
    rows = tf.cast(rows, tf.float64)
    differences = rows - rows[0]
    largest = tf.reduce_max(tf.abs(differences), axis=0)
    unit = tf.where(largest > 0.0, largest, tf.ones_like(largest))  # so that no square overflows
    differences /= unit
    mean = tf.reduce_mean(differences, axis=0)
    variance = tf.reduce_mean(tf.square(differences - mean), axis=0)
    return rows[0], unit * mean, unit * tf.sqrt(variance)
