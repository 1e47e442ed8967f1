"""Keeps NaN, infinity and wild outliers out of the weights, and says so.

The guard works inside the compiled step, where XLA leaves assertions out: the gradients of a
batch that is left out count as zero, the batch is counted, and the host raises or warns.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.keras_engine import keras

OUTLIER = 1000.0  # times the usual norm of the gradient
_LEAST_NORM = 1.0  # a smaller one counts as this: a training that is nearly done makes small steps
_MEMORY = 0.01  # share of the newest batch in the running mean
_STEEPEST = 10.0  # times the mean is all that a batch counts for in it


class LeftOut(NamedTuple):
    """How many batches were left out, and why."""

    not_finite: int
    outliers: int


class Guard:
    """Leaves out the batches whose gradients would do lasting harm.

    A batch is left out if the sum of squares of its gradients is not finite in their own dtype.
    Optimizers such as Adam keep averages of the squares, and infinity there would last. And it
    is left out if the norm is over 1000 times the running mean of the norms (or 1000, if that
    is more). A gradient `k` times the usual makes Adam's steps smaller by a factor of about
    `k / 30`, for thousands of steps. A batch counts in the mean for at most 10 times the mean,
    so that outliers do not hide each other, and what stays large is usual after some dozens of
    batches. The first batch has nothing to be measured by.
    """

    def __init__(self):
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA  # all see the same gradients
        self._left_out = tf.Variable([0, 0], trainable=False, aggregation=first, name="left_out")
        self._usual = tf.Variable(
            tf.zeros([], tf.float64), trainable=False, aggregation=first, name="usual_norm"
        )
        self._ended = (0, 0)  # counts of an epoch that has ended, and is not reported yet

    def __call__(self, gradients: list[tf.Tensor | None]) -> tuple[list, tf.Tensor]:
        """Returns the gradients and True; or zeros and False if the batch is left out."""
        known = [tf.convert_to_tensor(g) for g in gradients if g is not None]
        squares = [tf.cast(tf.reduce_sum(tf.square(g)), tf.float64) for g in known]
        norm, usual = tf.sqrt(tf.add_n(squares)), tf.identity(self._usual)
        finite = tf.math.is_finite(norm)
        outlier = finite & (usual > 0.0) & (norm > OUTLIER * tf.maximum(usual, _LEAST_NORM))
        self._left_out.assign_add(tf.cast([~finite, outlier], tf.int32))
        mean = usual + _MEMORY * (tf.minimum(norm, _STEEPEST * usual) - usual)
        mean = tf.where(usual > 0.0, mean, norm)
        self._usual.assign(tf.where(finite, mean, usual))
        fine = finite & ~outlier
        kept = [None if g is None else tf.where(fine, g, tf.zeros_like(g)) for g in gradients]
        return kept, fine

    @property
    def state(self) -> dict[str, tf.Variable]:
        """What a resumed run needs of it."""
        return {"left_out": self._left_out, "usual_norm": self._usual}

    def take(self) -> LeftOut:
        """The batches left out since the last call."""
        counts = np.add(self._ended, self._left_out.numpy())
        self._ended = (0, 0)
        self._left_out.assign(tf.zeros_like(self._left_out))
        return LeftOut(*map(int, counts))

    def end_epoch(self) -> None:
        """Keeps the counts of an epoch out of the state, in which the next one begins."""
        self._ended = self.take()

    def raise_or_warn(self) -> None:
        """Raises ValueError for gradients that were not finite, warns of other outliers."""
        not_finite, outliers = self.take()
        if not_finite:
            raise ValueError(
                f"{not_finite} batch(es) gave gradients that are not finite, and were left out; "
                "the weights are whole. Look for NaN, infinity or outliers in the data, its "
                "contexts and its weights; if there are none, lower the learning rate or clip "
                "gradients: "
                "optimizer=keras.optimizers.Adam(..., clipnorm=1.0)."
            )
        if outliers:
            warnings.warn(
                f"{outliers} batch(es) gave gradients over {OUTLIER:g} times as large as usual, "
                "and were left out. Look for outliers in the data, its contexts and its weights.",
                stacklevel=2,
            )


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends a training that has met NaN or infinity: no epoch more is of any use."""

    def __init__(self, guard: Guard):
        super().__init__()
        self._guard = guard

    def on_epoch_end(self, epoch, logs=None):
        self._guard.raise_or_warn()
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise ValueError(
                f"The loss became {loss} in epoch {epoch + 1}: look at the data and its contexts."
            )
