"""Log-probabilities of more data than fit into memory, written to a file batch by batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import saving
from tfp_flows.distributions import Dequantized
from tfp_flows.keras_engine import keras
from tfp_flows.model import data_checks as inputs

tfd = tfp.distributions

NAMED = 5  # rows that a message names


def score(
    flow: tfd.Distribution,
    log_prob: Callable,
    strategy: tf.distribute.Strategy,
    x: tf.data.Dataset,
    path: str | os.PathLike,
    max_batches: int | None,
    bad_rows: str,
    verbose: int,
) -> np.ndarray:
    """See `FlowModel.score`.

    Args:
      flow: the distribution.
      log_prob: the model, called as `log_prob(x, training=False)`.
      strategy: whose replicas share each batch.
      x, path, max_batches, bad_rows, verbose: as for `FlowModel.score`.
    """
    if bad_rows not in ("error", "nan"):
        raise ValueError(f"bad_rows must be 'error' or 'nan', got {bad_rows!r}.")
    if not str(path).endswith(".npy"):
        raise ValueError(f"The name of this file must end in .npy, got {str(path)!r}.")
    batches = _numbered(_batches(x, max_batches), flow)
    target = int(batches.cardinality())
    bar = keras.utils.Progbar(target if target >= 0 else None, verbose=verbose)
    bad = _BadRows(stop=bad_rows == "error")
    with saving.atomic_write(path) as draft, open(draft, "wb") as file:
        _write(file, _scores(batches, log_prob, strategy), bad, bar)
    bad.warn()
    return np.load(path, mmap_mode="r")


def _scores(
    batches: tf.data.Dataset, log_prob: Callable, strategy: tf.distribute.Strategy
) -> Iterator[np.ndarray]:
    """The log-probabilities, batch by batch."""

    def on_replica(index, examples):
        finite = tf.reduce_all([_finite_rows(t) for t in tf.nest.flatten(examples)], axis=0)
        values = log_prob(examples, training=False)
        return index, tf.where(finite, values, tf.constant(np.nan, values.dtype))

    @tf.function(reduce_retracing=True, autograph=False)
    def on_all(batch):
        results = strategy.run(on_replica, args=batch)
        if strategy.num_replicas_in_sync == 1:
            return results
        return [strategy.gather(part, axis=0) for part in results]

    try:
        for batch in strategy.experimental_distribute_dataset(batches):
            index, scores = (part.numpy() for part in on_all(batch))
            yield scores[np.argsort(index)]
    except tf.errors.OpError as error:
        raise RuntimeError(f"The data set cannot be scored to its end: {error}") from error


class _BadRows:
    """Rows without a score: the first few of them, and how many there are."""

    def __init__(self, stop: bool):
        self._stop, self._first, self._count = stop, [], 0

    def check(self, scores: np.ndarray, start: int) -> None:
        """Counts NaN in the scores of the rows from `start` on; raises ValueError if to `stop`."""
        rows = (start + np.flatnonzero(np.isnan(scores))).tolist()
        self._first += rows[: NAMED - len(self._first)]
        self._count += len(rows)
        if self._stop and rows:
            raise ValueError(f"{self} Remove them, or pass bad_rows='nan'. No file was written.")

    def warn(self) -> None:
        if self._count:
            warnings.warn(f"{self} Their scores are NaN.", stacklevel=4)

    def __str__(self) -> str:
        named = ", ".join(map(str, self._first)) + (", ..." if self._count > NAMED else "")
        return (
            f"{self._count} row(s) hold NaN or infinity, or have no log-probability: {named} "
            "(counted from 0)."
        )


def _write(file: BinaryIO, parts: Iterable[np.ndarray], bad: _BadRows, bar: Any) -> None:
    rows = count = 0
    for count, scores in enumerate(parts, start=1):
        if count == 1:
            dtype = scores.dtype
            _write_header(file, dtype, 0)  # NumPy leaves room in it for any number
        bad.check(scores, rows)
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


def _batches(x: Any, max_batches: int | None) -> tf.data.Dataset:
    if not isinstance(x, tf.data.Dataset):
        raise TypeError(
            f"score reads a tf.data.Dataset, got {type(x).__name__}. What fits into memory goes to "
            "log_prob or predict; or give tf.data.Dataset.from_tensor_slices(x).batch(1024)."
        )
    if max_batches is None and int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The data set has no end: pass max_batches, how many batches to score.")
    return x if max_batches is None else x.take(max_batches)


def _numbered(x: tf.data.Dataset, flow: tfd.Distribution) -> tf.data.Dataset:
    """Batches `(index, examples)`, with the index of each row in the data set."""
    inputs.check_elements(x, flow)

    def without_targets(examples: inputs.Examples, _: tuple) -> Any:
        checks = flow.validate_pixels(examples["x"]) if isinstance(flow, Dequantized) else []
        return inputs.as_input(examples | {"x": inputs.asserted(examples["x"], checks)})

    def number(start, examples):
        end = start + tf.shape(tf.nest.flatten(examples)[0], tf.int64)[0]
        return end, (tf.range(start, end), examples)

    examples = inputs.map_batches(x, without_targets, flow)
    numbered = examples.scan(tf.constant(0, tf.int64), number)
    options = tf.data.Options()  # workers share every batch, not the files that it comes from
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return numbered.with_options(options).prefetch(2)


def _finite_rows(values: tf.Tensor) -> tf.Tensor:
    """Whether each row holds neither NaN nor infinity."""
    if not values.dtype.is_floating:
        return tf.ones([tf.shape(values)[0]], tf.bool)
    return tf.reduce_all(tf.math.is_finite(values), axis=tf.range(1, tf.rank(values)))
