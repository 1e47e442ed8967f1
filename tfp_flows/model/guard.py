"""Keeps NaN, infinity and wild outliers out of the weights, and says so.

The guard works inside the compiled step, where XLA leaves assertions out: the gradients of a
batch that is skipped count as zero, the batch is counted, and the host warns or raises.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

OUTLIER = 1000.0  # times the usual norm of the gradient
PATIENCE = 10  # outliers in a row that are skipped; what follows is taken for usual
_LEAST_NORM = 1.0  # a smaller one counts as this: a training that is nearly done makes small steps
_MEMORY = 0.01  # share of the newest batch in the running mean
_STEEPEST = 10.0  # times the mean is all that a batch counts for in it

_FAULTS = {
    "data": "NaN or infinity in the data: remove such rows, or fill the gaps",
    "contexts": "NaN or infinity in the context: remove such rows, or fill the gaps",
    "weights": "sample weights that are negative, NaN or infinite",
}


class Skipped(NamedTuple):
    """How many batches were skipped, and why."""

    data: int = 0  # they hold NaN or infinity,
    contexts: int = 0  # so do their contexts,
    weights: int = 0  # or sample weights are negative or not finite
    diverged: int = 0  # the batch is fine, its gradients are not finite
    outliers: int = 0

    @property
    def not_finite(self) -> int:
        """Those whose gradients were not finite."""
        return sum(self) - self.outliers


class Guard:
    """Skips the batches whose gradients would do lasting harm.

    A batch is skipped if the sum of squares of its gradients is not finite in their own dtype.
    Optimizers such as Adam keep averages of the squares, and infinity there would last. And it
    is skipped if the norm is over 1000 times the running mean of the norms (or 1000, if that
    is more). A gradient `k` times the usual makes Adam's steps smaller by a factor of about
    `k / 30`, for thousands of steps. A batch counts in the mean for at most 10 times the mean,
    so that outliers do not hide each other. The first batch has nothing to be measured by.

    A skipped batch changes no weight, so a training that has come to a steep place would meet
    outliers only: after 10 in a row the next one counts, and the mean starts anew with it. An
    optimizer that clips gradients needs no such rule.
    """

    def __init__(self):
        self._left_out = _counter([0] * len(Skipped._fields), "left_out")
        self._usual = _counter(np.float64(0.0), "usual_norm")
        self._in_a_row = _counter(0, "in_a_row")  # the newest batches that were skipped
        self._unscored = _counter([0] * len(_FAULTS), "unscored")
        self._ended = Skipped()  # counts of an epoch that has ended, and is not reported yet

    def __call__(
        self,
        gradients: list[tf.Tensor | None],
        faults: tf.Tensor | None = None,
        clipped: bool = False,
    ) -> tuple[list, tf.Tensor]:
        """Returns the gradients, or zeros if the batch is skipped; and whether its loss counts.

        It does unless the batch is an outlier or has faults: where a training diverges, the loss
        of the epoch is not finite, as in Keras.

        Args:
          gradients: of all variables, summed over replicas.
          faults: `faults_of` the batch, summed over replicas.
          clipped: whether the optimizer clips them.
        """
        known = [tf.convert_to_tensor(g) for g in gradients if g is not None]
        squares = [tf.cast(tf.reduce_sum(tf.square(g)), tf.float64) for g in known]
        norm, usual = tf.sqrt(tf.add_n(squares)), tf.identity(self._usual)
        finite = tf.math.is_finite(norm)
        far = (usual > 0.0) & (norm > OUTLIER * tf.maximum(usual, _LEAST_NORM))
        far = finite & far & (not clipped)
        lasting = far & (self._in_a_row >= PATIENCE)
        fine = finite & (lasting | ~far)
        mean = usual + _MEMORY * (tf.minimum(norm, _STEEPEST * usual) - usual)
        mean = tf.where((usual > 0.0) & ~lasting, mean, norm)
        self._usual.assign(tf.where(finite, mean, usual))
        faulty = self.count(finite, faults, outlier=far & ~lasting)
        kept = [None if g is None else tf.where(fine, g, tf.zeros_like(g)) for g in gradients]
        return kept, fine | ~(finite | faulty)

    def count(
        self, finite: tf.Tensor, faults: tf.Tensor | None, outlier: tf.Tensor | bool = False
    ) -> tf.Tensor:
        """Counts a batch, one that is not finite by its first fault; returns whether it has any."""
        faults = tf.zeros([len(_FAULTS)]) if faults is None else faults
        diverged = tf.concat([faults > 0, [True]], 0)
        first = tf.one_hot(tf.argmax(diverged), len(_FAULTS) + 1, dtype=tf.int32)
        why = first * tf.cast(~finite, tf.int32)
        self._left_out.assign_add(tf.concat([why, [tf.cast(outlier, tf.int32)]], 0))
        fine = finite & ~tf.convert_to_tensor(outlier)
        self._in_a_row.assign(tf.where(fine, 0, self._in_a_row + 1))
        return tf.reduce_any(faults > 0)

    def count_unscored(self, faults: tf.Tensor) -> None:
        """Counts a batch of an evaluation if it has faults."""
        self._unscored.assign_add(tf.cast(faults > 0, tf.int32))

    @property
    def state(self) -> dict[str, tf.Variable]:
        """What a resumed run needs of it."""
        return {
            "left_out": self._left_out,
            "usual_norm": self._usual,
            "in_a_row": self._in_a_row,
        }

    def take(self) -> Skipped:
        """The batches skipped since the last call."""
        counts = np.add(self._ended, self._left_out.numpy())
        self._ended = Skipped()
        self._left_out.assign(tf.zeros_like(self._left_out))
        return Skipped(*map(int, counts))

    def end_epoch(self) -> None:
        """Keeps the counts of an epoch out of the state, in which the next one begins."""
        self._ended = self.take()

    def take_unscored(self) -> str:
        """The faults of batches that were evaluated since the last call; "" if there are none."""
        counts = self._unscored.numpy()
        self._unscored.assign(tf.zeros_like(self._unscored))
        found = zip(counts, _FAULTS.values(), strict=True)
        return "; ".join(f"{n} batch(es) hold {what}" for n, what in found if n)

    def describe(self, left_out: Skipped, optimizer: Any) -> str:
        """Why batches were skipped, and what to do about it; "" if none were."""
        found = zip(left_out, _FAULTS.values(), strict=False)
        reasons = [f"{n} of them hold {what}." for n, what in found if n]
        if left_out.diverged:
            in_a_row = int(self._in_a_row.numpy())
            reasons.append(_of_divergence(left_out.diverged, in_a_row, optimizer))
        text = ""
        if left_out.not_finite:
            text = (
                f"{left_out.not_finite} batch(es) gave gradients that are not finite, and were "
                f"skipped. {' '.join(reasons)} "
            )
        if left_out.outliers:
            text += (
                f"{left_out.outliers} batch(es) gave gradients over {OUTLIER:g} times as large as "
                "usual, and were skipped. Look for outliers in the data and the sample weights; "
                "if there are none, clip gradients: optimizer=keras.optimizers.Adam(..., "
                "clipnorm=1.0)."
            )
        return text.strip()

    def raise_or_warn(self, optimizer: Any) -> None:
        """Raises ValueError for gradients that were not finite, warns of other outliers."""
        left_out = self.take()
        if left_out.not_finite:
            raise ValueError(self.describe(left_out, optimizer))
        if left_out.outliers:
            warnings.warn(self.describe(left_out, optimizer), stacklevel=3)


def faults_of(values: tf.Tensor, context: Any, weight: Any) -> tf.Tensor:
    """What is wrong with a batch: 1 or 0 for its data, its contexts and its sample weights."""
    found = [_not_finite(values), _not_finite(context), tf.constant(False)]
    if weight is not None:
        found[2] = _not_finite(weight) | tf.reduce_any(weight < 0)
    return tf.cast(tf.stack(found), tf.float32)


def clips(optimizer: Any) -> bool:
    """Whether the optimizer clips gradients."""
    settings = ("clipnorm", "global_clipnorm", "clipvalue")
    return any(getattr(optimizer, name, None) is not None for name in settings)


def _counter(start, name: str) -> tf.Variable:
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA  # all see the same gradients
    return tf.Variable(start, trainable=False, aggregation=first, name=name)


def _not_finite(values: Any) -> tf.Tensor:
    if values is None or not values.dtype.is_floating:
        return tf.constant(False)
    return ~tf.reduce_all(tf.math.is_finite(values))


def _of_divergence(count: int, in_a_row: int, optimizer: Any) -> str:
    """What to do where batches are finite and their gradients are not."""
    remedy = (
        f"lower the learning rate (now {_rate(optimizer):.3g}) or clip gradients: "
        "optimizer=keras.optimizers.Adam(..., clipnorm=1.0)"
    )
    if in_a_row >= int(tf.convert_to_tensor(optimizer.iterations)):
        return (
            f"{count} of them hold no NaN, and no step has succeeded yet: the flow as it starts "
            "overflows on such data. Look for outliers and for the scale of the data; if there is "
            f"nothing wrong, {remedy}."
        )
    if in_a_row > 2:
        return (
            f"{count} of them hold no NaN, and the newest {in_a_row} in a row were skipped: the "
            f"training has diverged. The learning rate is too high: {remedy}."
        )
    return (
        f"{count} of them hold no NaN, and others were fine. Look for outliers in the "
        f"data and the sample weights; if there are none, {remedy}."
    )


def _rate(optimizer: Any) -> float:
    return float(tf.convert_to_tensor(optimizer.learning_rate))
