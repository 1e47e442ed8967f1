"""Keeps NaN, infinity and extreme outliers out of the weights, and reports them.

The guard works inside the compiled step, where XLA drops assertions: the gradients of a skipped
batch are replaced by zeros, the batch is counted, and the host warns or raises.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

OUTLIER = 1000.0  # times the usual norm of the gradient
PATIENCE = 10  # outliers in a row that are skipped; the next one counts as usual
_LEAST_NORM = 1.0  # a smaller usual norm counts as this: near convergence gradients are small
_MEMORY = 0.01  # weight of the newest batch in the running mean
_STEEPEST = 10.0  # a batch enters the running mean with at most this multiple of the mean

_FAULTS = {
    "data": "NaN or infinity in the data: remove such rows, or fill the gaps",
    "contexts": "NaN or infinity in the context: remove such rows, or fill the gaps",
    "weights": "sample weights that are negative, NaN or infinite",
}


class Skipped(NamedTuple):
    """How many batches were skipped, and why."""

    data: int = 0  # NaN or infinity in the data
    contexts: int = 0  # NaN or infinity in the contexts
    weights: int = 0  # sample weights that are negative or not finite
    diverged: int = 0  # gradients that are not finite, though the batch is
    outliers: int = 0  # gradients far larger than usual

    @property
    def not_finite(self) -> int:
        """How many batches had gradients that were not finite."""
        return sum(self) - self.outliers


class Guard:
    """Skips the batches whose gradients would do lasting harm.

    A batch is skipped if the sum of squares of its gradients is not finite in their own dtype:
    optimizers such as Adam keep running averages of the squares, where infinity would stay. It is
    also skipped if the norm is over 1000 times the running mean of the norms (or over 1000, if
    that is more): a gradient `k` times the usual one makes Adam's steps smaller by a factor of
    about `k / 30`, for thousands of steps. A batch enters the mean with at most 10 times the mean,
    so that outliers do not hide each other. The first batch has no mean to be compared with.

    A skipped batch changes no weight, so a training that reaches a steep region would meet only
    outliers: after 10 in a row the next one counts, and the mean restarts from it. Outliers are
    not skipped where the optimizer clips gradients.
    """

    def __init__(self):
        self._skipped = _counter([0] * len(Skipped._fields), "skipped")
        self._usual = _counter(np.float64(0.0), "usual_norm")
        self._in_a_row = _counter(0, "in_a_row")  # how many of the newest batches were skipped
        self._unscored = _counter([0] * len(_FAULTS), "unscored")
        self._ended = Skipped()  # counts of the last epoch that are not reported yet

    def __call__(
        self,
        gradients: list[tf.Tensor | None],
        faults: tf.Tensor | None = None,
        clipped: bool = False,
    ) -> tuple[list, tf.Tensor]:
        """Returns the gradients, or zeros if the batch is skipped; and whether its loss counts.

        The loss counts unless the batch is an outlier or has faults: where a training diverges,
        the loss of the epoch is not finite, as in Keras.

        Args:
          gradients: of all variables, summed over replicas; None for a variable without one.
          faults: `faults_of` the batch, `[3]`, summed over replicas; None counts as zeros.
          clipped: whether the optimizer clips gradients.
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
        passed = [None if g is None else tf.where(fine, g, tf.zeros_like(g)) for g in gradients]
        return passed, fine | ~(finite | faulty)

    def count(
        self, finite: tf.Tensor, faults: tf.Tensor | None, outlier: tf.Tensor | bool = False
    ) -> tf.Tensor:
        """Counts a batch, by its first fault if it is not finite; returns whether it has faults."""
        faults = tf.zeros([len(_FAULTS)]) if faults is None else faults
        diverged = tf.concat([faults > 0, [True]], 0)
        first = tf.one_hot(tf.argmax(diverged), len(_FAULTS) + 1, dtype=tf.int32)
        why = first * tf.cast(~finite, tf.int32)
        self._skipped.assign_add(tf.concat([why, [tf.cast(outlier, tf.int32)]], 0))
        fine = finite & ~tf.convert_to_tensor(outlier)
        self._in_a_row.assign(tf.where(fine, 0, self._in_a_row + 1))
        return tf.reduce_any(faults > 0)

    def count_unscored(self, faults: tf.Tensor) -> None:
        """Counts an evaluated batch that has faults; they are not part of the state."""
        self._unscored.assign_add(tf.cast(faults > 0, tf.int32))

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables that a resumed run needs, by name."""
        return {
            "skipped": self._skipped,
            "usual_norm": self._usual,
            "in_a_row": self._in_a_row,
        }

    def take(self) -> Skipped:
        """The batches skipped since the last call."""
        counts = np.add(self._ended, self._skipped.numpy())
        self._ended = Skipped()
        self._skipped.assign(tf.zeros_like(self._skipped))
        return Skipped(*map(int, counts))

    def end_epoch(self) -> None:
        """Moves the counts of an epoch out of the variables, with which the next one begins."""
        self._ended = self.take()

    def take_unscored(self) -> str:
        """The faults of the batches evaluated since the last call, as a text; "" if none."""
        counts = self._unscored.numpy()
        self._unscored.assign(tf.zeros_like(self._unscored))
        found = zip(counts, _FAULTS.values(), strict=True)
        return "; ".join(f"{n} batch(es) hold {what}" for n, what in found if n)

    def describe(self, skipped: Skipped, optimizer: Any) -> str:
        """Why batches were skipped, and what to do about it; "" if none were."""
        found = zip(skipped, _FAULTS.values(), strict=False)
        reasons = [f"{n} of them hold {what}." for n, what in found if n]
        if skipped.diverged:
            in_a_row = int(self._in_a_row.numpy())
            reasons.append(_of_divergence(skipped.diverged, in_a_row, optimizer))
        text = ""
        if skipped.not_finite:
            text = (
                f"{skipped.not_finite} batch(es) gave gradients that are not finite, and were "
                f"skipped. {' '.join(reasons)} "
            )
        if skipped.outliers:
            text += (
                f"{skipped.outliers} batch(es) gave gradients over {OUTLIER:g} times as large as "
                "usual, and were skipped. Look for outliers in the data and the sample weights; "
                "if there are none, clip gradients: optimizer=keras.optimizers.Adam(..., "
                "clipnorm=1.0)."
            )
        return text.strip()

    def raise_or_warn(self, optimizer: Any) -> None:
        """Raises ValueError if gradients were not finite; warns if there were outliers."""
        skipped = self.take()
        if skipped.not_finite:
            raise ValueError(self.describe(skipped, optimizer))
        if skipped.outliers:
            warnings.warn(self.describe(skipped, optimizer), stacklevel=3)


def faults_of(values: tf.Tensor, context: Any, weight: Any) -> tf.Tensor:
    """The faults of a batch, `[3]`: 1 or 0 for its data, its contexts and its sample weights."""
    found = [_not_finite(values), _not_finite(context), tf.constant(False)]
    if weight is not None:
        found[2] = _not_finite(weight) | tf.reduce_any(weight < 0)
    return tf.cast(tf.stack(found), tf.float32)


def clips(optimizer: Any) -> bool:
    """Whether the optimizer clips gradients."""
    settings = ("clipnorm", "global_clipnorm", "clipvalue")
    return any(getattr(optimizer, name, None) is not None for name in settings)


def _counter(start, name: str) -> tf.Variable:
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA  # which all see the same gradients
    return tf.Variable(start, trainable=False, aggregation=first, name=name)


def _not_finite(values: Any) -> tf.Tensor:
    if values is None or not values.dtype.is_floating:
        return tf.constant(False)
    return ~tf.reduce_all(tf.math.is_finite(values))


def _of_divergence(count: int, in_a_row: int, optimizer: Any) -> str:
    """What to do where batches are finite and their gradients are not."""
    advice = (
        f"lower the learning rate (now {_rate(optimizer):.3g}) or clip gradients: "
        "optimizer=keras.optimizers.Adam(..., clipnorm=1.0)"
    )
    if in_a_row >= int(tf.convert_to_tensor(optimizer.iterations)):
        return (
            f"{count} of them hold no NaN, and no step has succeeded yet: the flow as it starts "
            "overflows on such data. Look for outliers and for the scale of the data; if there is "
            f"nothing wrong, {advice}."
        )
    if in_a_row > 2:
        return (
            f"{count} of them hold no NaN, and the newest {in_a_row} in a row were skipped: the "
            f"training has diverged. The learning rate is too high: {advice}."
        )
    return (
        f"{count} of them hold no NaN, and others were fine. Look for outliers in the "
        f"data and the sample weights; if there are none, {advice}."
    )


def _rate(optimizer: Any) -> float:
    return float(tf.convert_to_tensor(optimizer.learning_rate))
