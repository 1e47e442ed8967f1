"""Arrays as batches, without what Keras's own pipeline costs a step of a millisecond."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfp_flows.training.progress import Progress

AHEAD = 2  # batches that wait


def batches(
    arrays: tuple, batch_size: int | None, shuffle: bool, progress: Progress
) -> tf.data.Dataset:
    """The rows of a nest of arrays, batch by batch, in a new order in every epoch if `shuffle`.

    The order follows from `progress`; what it has seen of an epoch is left out. Rows are gathered
    a batch at a time. Nothing is tuned while it runs: TensorFlow's tuner costs CPU time, and on
    one core the end of an epoch waits for its thread to wake up.
    """
    tensors = tf.nest.map_structure(tf.convert_to_tensor, arrays)
    rows, size = len(tf.nest.flatten(arrays)[0]), batch_size or 32
    whole, seen = rows - rows % size, progress.numbers()["batch"]

    def one_epoch(_) -> tf.data.Dataset:
        order = tf.range(rows, dtype=tf.int64)
        if shuffle:
            seed = progress.order_seed(seen)
            order = tf.random.experimental.stateless_shuffle(order, seed)
        full = tf.data.Dataset.from_tensor_slices(tf.reshape(order[:whole], [-1, size]))
        rest = tf.data.Dataset.from_tensors(order[whole:]).take(int(rows > whole))
        return full.concatenate(rest).skip(seen)

    def rows_of(index):
        return tf.nest.map_structure(lambda t: tf.gather(t, index), tensors)

    # Within flat_map, the order is asked for as each epoch begins.
    dataset = tf.data.Dataset.range(1).flat_map(one_epoch).map(rows_of).prefetch(AHEAD)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    dataset = dataset.with_options(options)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-rows // size) - seen))


def in_order(arrays: tuple, batch_size: int | None) -> tf.data.Dataset:
    """The rows of a nest of arrays, batch by batch, in the dtype that they have."""
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size or 32)


def takes_over(arguments: dict[str, Any]) -> bool:
    """Whether `fit` was asked for nothing that needs Keras's own pipeline."""
    asks = ("validation_split", "steps_per_epoch")
    return not any(arguments.get(a) for a in asks) and arguments.get("shuffle", True) in (0, 1)
