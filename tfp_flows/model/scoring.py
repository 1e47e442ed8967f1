"""Log-probabilities of more data than fit into memory, written to a file as they come."""

from __future__ import annotations

import os
import warnings
from typing import BinaryIO

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import saving
from tfp_flows.distributions import Dequantized
from tfp_flows.keras_engine import keras
from tfp_flows.model import data_checks as inputs

tfd = tfp.distributions

NAMED = 5  # rows that a message names


class FlowScoring:
    """The part of `FlowModel` that scores what does not fit into memory."""

    def score(
        self,
        x: tf.data.Dataset,
        path: str | os.PathLike,
        steps: int | None = None,
        bad_rows: str = "error",
        verbose: int = 1,
    ) -> np.ndarray:
        """Writes the log-probability of every example of a data set to a `.npy` file.

        Memory does not grow with the data: a batch is read, scored and written. Under a
        `tf.distribute` strategy each batch is shared among the replicas; the order of the rows is
        kept. Of several workers each calls `score`, and each writes the whole file. The file has
        its name only once it is complete.

        Args:
          x: batches `[n, *event_shape]`; `(x, context)` for a conditional flow; no targets
            are needed.
          path: the file to write, which `np.load` reads.
          steps: how many batches to score; all if None.
          bad_rows: what to do about rows that hold NaN or infinity, or have no log-probability:
            `"error"` raises, `"nan"` writes NaN for them and warns in the end.
          verbose: 1 shows a progress bar, 2 a line in the end, 0 nothing.

        Returns:
          The log-probabilities in nats, shape [rows], mapped from the file and not read yet.

        Raises:
          TypeError: `x` is no data set, or not of the flow's examples.
          ValueError: it has no end (give `steps`) or no examples; a bad row, which is named.
          RuntimeError: the data set could not be read to its end, or another worker died.

        Example:
          >>> import tempfile
          >>> import tfp_flows as flows
          >>> model = flows.FlowModel(flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,)))
          >>> rows = tf.data.Dataset.range(1000).map(lambda i: tf.sin(tf.cast([i, -i], tf.float32)))
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     model.score(rows.batch(100), f"{folder}/scores.npy", verbose=0).shape
          (1000,)
        """
        if bad_rows not in ("error", "nan"):
            raise ValueError(f"bad_rows must be 'error' or 'nan', got {bad_rows!r}.")
        if not str(path).endswith(".npy"):
            raise ValueError(f"The name of this file must end in .npy, got {str(path)!r}.")
        self._follow_settings()
        batches = _numbered(_batches(x, steps), self._flow)
        target = int(batches.cardinality())
        bar = keras.utils.Progbar(target if target >= 0 else None, verbose=verbose)
        bad = _BadRows(stop=bad_rows == "error")
        with saving.atomic_write(path) as draft, open(draft, "wb") as file:
            _write(file, self._scored(batches), bad, bar)
        bad.warn()
        return np.load(path, mmap_mode="r")

    def _scored(self, batches: tf.data.Dataset):
        """The log-probabilities, batch by batch."""
        strategy = self.distribute_strategy

        def on_replica(places, examples):
            fine = tf.reduce_all([_finite_rows(t) for t in tf.nest.flatten(examples)], axis=0)
            log_prob = self(examples, training=False)
            return places, tf.where(fine, log_prob, tf.constant(np.nan, log_prob.dtype))

        @tf.function(reduce_retracing=True, autograph=False)
        def on_all(batch):
            results = strategy.run(on_replica, args=batch)
            if strategy.num_replicas_in_sync == 1:
                return results
            return [strategy.gather(part, axis=0) for part in results]

        try:
            for batch in strategy.experimental_distribute_dataset(batches):
                places, scores = (part.numpy() for part in on_all(batch))
                yield scores[np.argsort(places)]
        except tf.errors.OpError as error:
            raise RuntimeError(f"The data set cannot be scored to its end: {error}") from error


class _BadRows:
    """Rows without a score: the first few of them, and how many there are."""

    def __init__(self, stop: bool):
        self._stop, self._first, self._count = stop, [], 0

    def look(self, scores: np.ndarray, start: int) -> None:
        """Raises ValueError for NaN in the scores of rows from `start` on, or remembers it."""
        rows = (start + np.flatnonzero(np.isnan(scores))).tolist()
        self._first += rows[: NAMED - len(self._first)]
        self._count += len(rows)
        if self._stop and rows:
            raise ValueError(f"{self} Remove them, or pass bad_rows='nan'. No file was written.")

    def warn(self) -> None:
        if self._count:
            warnings.warn(f"{self} Their scores are NaN.", stacklevel=3)

    def __str__(self) -> str:
        named = ", ".join(map(str, self._first)) + (", ..." if self._count > NAMED else "")
        return (
            f"{self._count} row(s) hold NaN or infinity, or have no log-probability: {named} "
            "(counted from 0)."
        )


def _write(file: BinaryIO, parts, bad: _BadRows, bar) -> None:
    rows = count = 0
    for count, scores in enumerate(parts, start=1):
        if count == 1:
            dtype = scores.dtype
            _write_header(file, dtype, 0)  # NumPy leaves room in it for any number
        bad.look(scores, rows)
        file.write(scores.tobytes())
        rows += len(scores)
        bar.update(count, finalize=False)
    if not rows:
        raise ValueError("The data set holds no examples.")
    bar.update(count, finalize=True)
    file.seek(0)
    _write_header(file, dtype, rows)


def _write_header(file: BinaryIO, dtype: np.dtype, rows: int) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)


def _batches(x, steps: int | None) -> tf.data.Dataset:
    if not isinstance(x, tf.data.Dataset):
        raise TypeError(
            f"score reads a tf.data.Dataset, got {type(x).__name__}. What fits into memory goes to "
            "log_prob or predict; or give tf.data.Dataset.from_tensor_slices(x).batch(1024)."
        )
    if steps is None and int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The data set has no end: pass steps, the number of batches to score.")
    return x if steps is None else x.take(steps)


def _numbered(x: tf.data.Dataset, flow: tfd.Distribution) -> tf.data.Dataset:
    """Batches `(places, examples)`; places are the numbers of the rows, from 0."""
    inputs.check_elements(x, flow)
    is_tuple = isinstance(x.element_spec, tuple)

    def examples_of(*batch):
        examples = inputs.split(batch if is_tuple else batch[0], flow)[0]
        values = examples["x"] if isinstance(examples, dict) else examples
        checks = flow.validate_pixels(values) if isinstance(flow, Dequantized) else []
        with tf.control_dependencies(checks):
            return tf.nest.map_structure(tf.identity, examples)

    def number(start, examples):
        end = start + tf.shape(tf.nest.flatten(examples)[0], tf.int64)[0]
        return end, (tf.range(start, end), examples)

    numbered = x.map(examples_of).scan(tf.constant(0, tf.int64), number)
    options = tf.data.Options()  # workers share every batch, not the files that it comes from
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return numbered.with_options(options).prefetch(2)


def _finite_rows(values: tf.Tensor) -> tf.Tensor:
    if not values.dtype.is_floating:
        return tf.ones([tf.shape(values)[0]], tf.bool)
    return tf.reduce_all(tf.math.is_finite(values), axis=tf.range(1, tf.rank(values)))
