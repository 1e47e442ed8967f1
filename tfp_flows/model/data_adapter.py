"""Data adapter: what Keras's methods are given for what a user gives to those of `FlowModel`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.model import data_checks as inputs
from tfp_flows.model.sample_weights import checked_weight
from tfp_flows.model.training_state import Progress

tfd = tfp.distributions

Arguments = dict[str, Any]  # of a method of Keras, by name
PREFETCHED = 2  # batches


def batches(
    arrays: tuple, batch_size: int | None, shuffle: bool, progress: Progress
) -> tf.data.Dataset:
    """The rows of a nest of arrays in batches; if `shuffle`, in a new order in every epoch.

    The order follows from `progress`; the batches that it has seen of an epoch are skipped. Rows
    are gathered one batch at a time. TensorFlow's tuner is off: it costs CPU time, and on one core
    the end of an epoch waits for its thread to wake up.
    """
    tensors = tf.nest.map_structure(tf.convert_to_tensor, arrays)
    rows, size = inputs.rows(arrays), batch_size or 32
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

    # Within flat_map, the seed is read as each epoch begins.
    dataset = tf.data.Dataset.range(1).flat_map(one_epoch).map(rows_of).prefetch(PREFETCHED)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    dataset = dataset.with_options(options)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-rows // size) - seen))


class DataAdapter:
    """Checks the arguments of `fit`, `evaluate` and the like, and prepares them for Keras.

    Keras would shuffle by its own generator, which a resumed training cannot repeat, and cast
    arrays of float64 to float32. So it is given data sets instead, where it would do so.

    Args:
      flow: the distribution that the data are for.
      progress: of the training; the order of the rows follows from it.
    """

    def __init__(self, flow: tfd.Distribution, progress: Progress):
        self._flow = flow
        self._progress = progress

    def checked(self, arguments: Arguments, where: str) -> Arguments:
        """Returns the arguments of Keras's method `where` after all checks.

        Raises:
          ValueError: for targets, class weights, or sample weights beside a data set.
          ValueError, TypeError: for examples that the flow cannot model.
        """
        if arguments.get("class_weight") is not None:
            raise ValueError(
                "class_weight weighs the classes of targets, which a flow does not have: give "
                "each example its weight, as sample_weight=."
            )
        inputs.validate_no_targets(arguments.get("y"), self._flow, where)
        x, weight = inputs.checked(arguments["x"], self._flow), arguments.get("sample_weight")
        arguments = arguments | {"x": x}
        if weight is not None:
            if not inputs.in_memory(x):
                raise ValueError(
                    f"{where} takes sample_weight for arrays only. The batches of a data set or a "
                    "generator hold their own weights: (x, y, weight)."
                )
            arguments["y"], arguments["sample_weight"] = _with_targets(weight, inputs.rows(x))
        if arguments.get("validation_data") is not None:
            size = arguments.get("validation_batch_size") or arguments.get("batch_size")
            arguments["validation_data"] = self._validation(arguments["validation_data"], size)
        return arguments

    def _validation(self, validation: Any, batch_size: int | None) -> Any:
        if isinstance(validation, tf.data.Dataset):
            return inputs.checked(validation, self._flow)
        examples, rest = inputs.split(validation, self._flow)
        x = inputs.checked(inputs.as_input(examples), self._flow)
        if not inputs.in_memory(x):
            return validation
        y, weight, *_ = *rest, None, None
        if weight is None:
            is_context = "context" in examples and inputs.is_array(validation[0])
            inputs.validate_no_targets(None if is_context else y, self._flow, "validation_data")
            arrays = (x,)
        else:
            arrays = (x, *_with_targets(weight, inputs.rows(x)))
        return _in_order(arrays, batch_size) if self._would_be_cast(x) else arrays

    def for_fit(self, arguments: Arguments, is_distributed: bool) -> Arguments:
        """The checked arguments of `fit` for Keras: arrays become `batches` where they can.

        Batches of an interrupted epoch that were seen are skipped.
        """
        x = arguments["x"]
        if not self._takes_over(arguments, is_distributed):
            seen = self._progress.numbers()["batch"]
            return arguments | {"x": x.skip(seen)} if seen else arguments
        arguments = dict(arguments)
        arrays = _arrays(arguments)
        size, shuffle = arguments.pop("batch_size", None), arguments.get("shuffle", True)
        if arguments.get("validation_data") is not None:
            arguments["validation_batch_size"] = arguments.get("validation_batch_size") or size
        own = batches(arrays, size, bool(shuffle), self._progress)
        return arguments | {"x": own, "shuffle": False}

    def knows_place(self, arguments: Arguments, is_distributed: bool) -> bool:
        """Whether an interrupted epoch of these data can go on where it was."""
        is_data_set = isinstance(arguments["x"], tf.data.Dataset)
        return is_data_set or self._takes_over(arguments, is_distributed)

    def _takes_over(self, arguments: Arguments, is_distributed: bool) -> bool:
        """Whether `fit` gets arrays, and nothing that needs Keras's own pipeline."""
        keras_only = any(arguments.get(name) for name in ("validation_split", "steps_per_epoch"))
        is_plain = not keras_only and arguments.get("shuffle", True) in (0, 1)
        return is_plain and inputs.in_memory(arguments["x"]) and not is_distributed

    def for_inference(self, arguments: Arguments) -> Arguments:
        """The checked arguments of `evaluate` or `predict` for Keras, in the flow's precision."""
        if not self._would_be_cast(arguments["x"]):
            return arguments
        arguments = dict(arguments)
        arrays = _arrays(arguments)
        return arguments | {"x": _in_order(arrays, arguments.pop("batch_size", None))}

    def _would_be_cast(self, x: Any) -> bool:
        """Whether Keras, which casts arrays of float64 to float32, would lose digits."""
        return self._flow.dtype == tf.float64 and inputs.in_memory(x)


def _with_targets(weight: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Checked weights, and targets without a meaning: without any, Keras drops the weights."""
    return np.zeros([count], np.float32), checked_weight(weight, count)


def _arrays(arguments: Arguments) -> tuple:
    """Takes the examples, and their targets and weights if any, out of the arguments."""
    found = [arguments.pop(name, None) for name in ("x", "y", "sample_weight")]
    return tuple(part for part in found if part is not None)


def _in_order(arrays: tuple, batch_size: int | None) -> tf.data.Dataset:
    """The rows of a nest of arrays in batches, in the dtype that they have."""
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size or 32)
