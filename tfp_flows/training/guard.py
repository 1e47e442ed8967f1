"""Keeps NaN and infinity out of the weights, and says so.

The guard works inside the compiled step, where XLA leaves assertions out: a gradient that is not
finite counts as zero, the batch is counted, and the host raises.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfp_flows.keras_engine import keras


def counter() -> tf.Variable:
    """Counts the batches that were left out."""
    summed = tf.VariableAggregation.SUM
    return tf.Variable(0, trainable=False, aggregation=summed, name="left_out")


def guarded(gradients: list[tf.Tensor | None], left_out: tf.Variable) -> list[tf.Tensor | None]:
    """Returns the gradients, or zeros and counts the batch if any of them is not finite."""
    known = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    # A sum is finite only if every term is.
    fine = tf.math.is_finite(tf.add_n([tf.cast(tf.reduce_sum(g), tf.float64) for g in known]))
    left_out.assign_add(tf.cast(~fine, tf.int32))
    return [None if g is None else tf.where(fine, g, tf.zeros_like(g)) for g in gradients]


def raise_if_left_out(left_out: tf.Variable) -> None:
    """Raises ValueError if a batch had to be left out since the last look."""
    batches = int(left_out.numpy())
    if batches:
        left_out.assign(0)
        raise ValueError(
            f"{batches} batch(es) gave gradients that are not finite, and were left out; the "
            "weights are whole. Look for NaN, infinity or outliers in the data and its weights; if "
            "there are none, lower the learning rate or clip gradients: "
            "optimizer=keras.optimizers.Adam(..., clipnorm=1.0)."
        )


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends a training that has met NaN or infinity: no epoch more is of any use."""

    def __init__(self, left_out: tf.Variable):
        super().__init__()
        self._left_out = left_out

    def on_epoch_end(self, epoch, logs=None):
        raise_if_left_out(self._left_out)
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise ValueError(f"The loss became {loss} in epoch {epoch + 1}: look at the data.")
