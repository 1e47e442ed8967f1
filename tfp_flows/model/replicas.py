"""Training on several replicas and workers as on one device.

Keras averages over the examples of a replica and then over replicas, and clips before it sums.
Here the gradient is that of the mean over the whole batch before it is clipped or checked. On one
device each function is plain arithmetic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import private
from tfp_flows.keras_engine import IS_LEGACY, keras

_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)


def count() -> int:
    """The number of replicas in the step that is being traced."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def many_workers(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether other processes train the same model; by default under the strategy in scope."""
    strategy = strategy or tf.distribute.get_strategy()
    several = tf.distribute.MultiWorkerMirroredStrategy
    return isinstance(strategy, several) and private.has_other_workers(strategy)


def is_distributed(strategy: tf.distribute.Strategy) -> bool:
    """Whether it is a strategy that was chosen, not TensorFlow's default."""
    with strategy.scope():
        return tf.distribute.has_strategy()


class Mean(keras.metrics.Mean):
    """Keras's, over the batches that count; NaN, not 0, if there were none.

    tf_keras writes the state of metrics to files and Keras 3 does not; either reads both.
    """

    def update_where(self, counts: tf.Tensor | bool, values: tf.Tensor) -> None:
        """Adds the values if `counts`, which may be a tensor."""
        none = tf.zeros_like(values)
        self.update_state(tf.where(counts, values, none), tf.where(counts, none + 1.0, none))

    def result(self):
        mean = super().result()
        return tf.where(self.count > 0, mean, tf.constant(np.nan, mean.dtype))

    if IS_LEGACY:

        def load_own_variables(self, store: Any) -> None:
            if len(store.keys()):  # as arrays, which a replicated variable can be assigned
                super().load_own_variables({key: np.asarray(store[key]) for key in store})


def summed(tensors: list) -> list:
    """The sum over all replicas of each tensor in a list, which may hold None as well."""
    if count() == 1:
        return tensors
    sums, replica = list(tensors), tf.distribute.get_replica_context()
    dtypes = {t.dtype for t in tensors if t is not None}
    for dtype in sorted(dtypes, key=str):  # one message holds one dtype
        indices = [i for i, t in enumerate(tensors) if t is not None and t.dtype == dtype]
        parts = [tensors[i] for i in indices]
        totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, parts)
        for i, total in zip(indices, totals, strict=True):
            sums[i] = total
    return sums


def never_empty(examples: dict[str, Any]) -> tuple[dict[str, Any], tf.Tensor | None]:
    """The examples, and how many there are (None: all) before an empty batch was filled.

    A replica's share of a small batch may be empty, on which convolutions of TensorFlow 2.21 fail
    on a CPU. It gets one example of halves, which lie in the support of most flows.
    """
    if count() == 1:
        return examples, None
    rows = tf.shape(examples["x"])[0]

    def filled(values: tf.Tensor) -> tf.Tensor:
        half = tf.fill(tf.shape(values)[1:], tf.cast(0.5, values.dtype))
        return tf.concat([values, tf.repeat(half[tf.newaxis], tf.cast(rows == 0, tf.int32), 0)], 0)

    return {name: filled(values) for name, values in examples.items()}, rows


def share_of_mean(values: tf.Tensor) -> tf.Tensor:
    """This replica's part of the mean over the examples of all replicas; it may have none."""
    if count() == 1:
        return tf.reduce_mean(values)
    (size,) = summed([tf.cast(tf.size(values), values.dtype)])
    return tf.reduce_sum(values) / size


def share_of_one(value: tf.Tensor) -> tf.Tensor:
    """This replica's part of a value that is the same on all of them."""
    return value / count()


def log_of(value: tf.Tensor) -> tf.Tensor:
    """A scalar for Keras's logs, which Keras 3 averages over workers along an axis of theirs."""
    return tf.reshape(value, [1]) if many_workers() and not IS_LEGACY else value


def gathered(examples: dict[str, Any], strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """The examples of all workers, the same on each of them."""
    if not many_workers(strategy):
        return examples

    @tf.function
    def gather():
        context = tf.distribute.get_replica_context()
        return tf.nest.map_structure(lambda rows: context.all_gather(rows, axis=0), tensors)

    tensors = tf.nest.map_structure(tf.convert_to_tensor, examples)
    everywhere = strategy.run(gather)
    return tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], everywhere)


def take_from_chief(variables: Iterable, strategy: tf.distribute.Strategy) -> None:
    """Assigns the chief's values, whatever files, seeds or data a worker has started from."""
    variables = [private.tf_variable(v) for v in variables]

    @tf.function
    def from_first():
        numbers = [tf.cast(v, tf.int32) if v.dtype == tf.bool else v.value() for v in variables]
        is_first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
        return summed([tf.where(is_first, number, tf.zeros_like(number)) for number in numbers])

    for variable, value in zip(variables, strategy.run(from_first), strict=True):
        value = strategy.experimental_local_results(value)[0]
        variable.assign(tf.cast(value, variable.dtype))


@contextlib.contextmanager
def lost_workers_named(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Adds what to do to an error which means that another worker has died."""
    try:
        yield
    except _LOST as error:
        if not many_workers(strategy):
            raise
        raise type(error)(
            error.node_def,
            error.op,
            "Another worker has died or cannot be reached, so the training ends here. Start all "
            "workers again; with callbacks=[flows.BackupAndRestore(folder)] fit goes on from the "
            f"last backup. TensorFlow says: {error.message}",
        ) from error


def apply_summed(optimizer: Any, gradients: list, variables: list) -> None:
    """`optimizer.apply_gradients` for gradients that are `summed`, without its own sum."""
    pairs = zip(gradients, variables, strict=True)
    if count() == 1:
        optimizer.apply_gradients(pairs)
    elif IS_LEGACY:
        optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    else:
        private.apply_summed(optimizer, pairs)
