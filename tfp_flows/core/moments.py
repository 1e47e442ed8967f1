"""Location and spread of data in any units."""

from __future__ import annotations

import tensorflow as tf


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
