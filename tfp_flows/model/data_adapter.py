"""How data reach `fit` and `evaluate`: checked, in batches, several steps per execution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.callbacks.backup import keep_backups, replace_keras_backups, restore_backup
from tfp_flows.callbacks.health import FlowHealth
from tfp_flows.callbacks.training import EpochEnds, StopWhenDiverged
from tfp_flows.keras_engine import keras
from tfp_flows.model import data_checks as inputs
from tfp_flows.model import replicas
from tfp_flows.model.sample_weights import checked_weight
from tfp_flows.model.training_state import Progress

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


# For vectors a step takes milliseconds, and what Keras does between steps a good part of one.
STEPS_OF_VECTORS = 10
_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin", "on_test_batch_end")
_OLD_HOOKS = ("on_batch_begin", "on_batch_end")


def steps_per_execution(event_ndims: int, callbacks: Any, asked: list[int]) -> int:
    """Several at once for flows over vectors, unless a callback wants to see every batch.

    Args:
      event_ndims: of the flow.
      callbacks: as Keras takes them.
      asked: for training, validation or the like, the `steps_asked` for. Each is a multiple of
        the result, or Keras would run more steps.
    """
    if event_ndims != 1 or (callbacks and not isinstance(callbacks, list | tuple)):
        return 1
    if any(_sees_batches(c) for c in callbacks or ()):
        return 1
    common = math.gcd(*asked)
    return max(n for n in range(1, STEPS_OF_VECTORS + 1) if common % n == 0)


def steps_asked(data: Any, steps: int | None) -> int:
    """The number of steps that were asked for; 0: all of the data, 1: nobody knows how many."""
    if steps:
        return int(steps)
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality() < 0)
    return int(not (isinstance(data, dict | tuple) or hasattr(data, "__array__")))


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras's, which would count the steps that the last, shorter run of an epoch did not have."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(self._real(batch), logs)

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(self._real(batch), logs)

    def on_predict_batch_end(self, batch, logs=None):
        super().on_predict_batch_end(self._real(batch), logs)

    def _real(self, batch: int) -> int:
        return batch if self.target is None else min(batch, self.target - 1)


def with_bar(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a method of Keras, whose progress bar will be right."""
    callbacks = kwargs.get("callbacks") or []
    if kwargs.get("verbose") == 0 or not isinstance(callbacks, list | tuple):
        return kwargs
    if any(isinstance(c, keras.callbacks.ProgbarLogger) for c in callbacks):
        return kwargs
    return kwargs | {"callbacks": [*callbacks, ProgressBar()]}


def _sees_batches(callback: Any) -> bool:
    if getattr(callback, "save_freq", None) == "epoch":  # Keras's checkpoints
        return False
    plain = keras.callbacks.Callback
    return any(
        getattr(getattr(callback, hook, None), "__func__", None) is not getattr(plain, hook)
        for hook in (*_HOOKS, *_OLD_HOOKS)
    )


class FlowFeeding:
    """The part of `FlowModel` between its arguments and Keras's own loop."""

    def _checked_inputs(self, x, y, kwargs, where: str):
        """Arguments of `where`, a method of Keras, after all checks."""
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "class_weight weighs the classes of targets, which a flow does not have: give "
                "each example its weight, as sample_weight=."
            )
        inputs.validate_no_targets(y, self._flow, where)
        x, weight = inputs.checked(x, self._flow), kwargs.get("sample_weight")
        if weight is None:
            return x, None, kwargs
        if not (inputs.is_array(x) or isinstance(x, dict)):
            raise ValueError(
                f"{where} takes sample_weight for arrays only. The batches of a data set or a "
                "generator hold their own weights: (x, y, weight)."
            )
        y, weight = _with_targets(weight, inputs.rows(x))
        return x, y, kwargs | {"sample_weight": weight}

    def _checked_validation(self, validation, batch_size: int | None):
        if isinstance(validation, tf.data.Dataset):
            return inputs.checked(validation, self._flow)
        x, rest = inputs.split(validation, self._flow)
        x = inputs.checked(x, self._flow)
        if not (inputs.is_array(x) or isinstance(x, dict)):  # a generator or the like
            return validation
        y, weight, *_ = *rest, None, None
        if weight is None:
            context = isinstance(x, dict) and inputs.is_array(validation[0])
            inputs.validate_no_targets(None if context else y, self._flow, "validation_data")
            arrays = (x,)
        else:
            arrays = (x, *_with_targets(weight, inputs.rows(x)))
        return in_order(arrays, batch_size) if self._would_be_cast(x) else arrays

    def _would_be_cast(self, x) -> bool:
        """Whether Keras, which takes arrays of float64 for float32, would lose digits."""
        is_array = inputs.is_array(x) or isinstance(x, dict)
        return is_array and self._flow.dtype == tf.float64

    def _with_own_callbacks(self, kwargs):
        """What `fit` was given to watch it, and what it needs itself; goes on from a backup."""
        callbacks = kwargs.get("callbacks") or []
        resumed = False
        if isinstance(callbacks, list | tuple | keras.callbacks.Callback):
            callbacks = replace_keras_backups(tf.nest.flatten(callbacks))
            resumed = restore_backup(self, callbacks)
            # Epochs are counted before others save, and faults are raised after that.
            watched = any(isinstance(c, FlowHealth) for c in callbacks)
            last = [] if watched else [StopWhenDiverged()]
            callbacks = [EpochEnds(), *callbacks, *last]
        first = self.training_state.begin(kwargs.get("initial_epoch", 0), resumed)
        if replicas.many_workers(self.distribute_strategy):
            replicas.take_from_chief(self._whole_state(), self.distribute_strategy)
            first = self._progress.numbers()["epoch"]
        return kwargs | {"callbacks": callbacks, "initial_epoch": first}

    def evaluate(self, x, y, **kwargs):
        """Keras's `evaluate`, in the flow's own precision."""
        if self._would_be_cast(x):
            arrays = (x, y, kwargs.pop("sample_weight", None))
            arrays = tuple(a for a in arrays if a is not None)
            x, y = in_order(arrays, kwargs.pop("batch_size", None)), None
        return super().evaluate(x, y, **kwargs)

    def predict(self, x, **kwargs):
        """Keras's `predict`, in the flow's own precision."""
        if self._would_be_cast(x):
            x = in_order((x,), kwargs.pop("batch_size", None))
        return super().predict(x, **kwargs)

    def fit(self, x, y, **kwargs):
        """Keras's `fit`; an epoch that was interrupted is brought to its end first."""
        if not (self._takes_over(x, kwargs) or isinstance(x, tf.data.Dataset)):
            self._progress.restart_epoch()  # nobody knows where it was
        after = kwargs["initial_epoch"] + 1
        if not self._progress.numbers()["batch"]:
            return super().fit(**self._fed(x, y, kwargs))
        with keep_backups(kwargs["callbacks"]):
            history = super().fit(**self._fed(x, y, kwargs | {"epochs": after}))
        if not self.stop_training and after < kwargs.get("epochs", 1):
            earlier = history
            history = super().fit(**self._fed(x, y, kwargs | {"initial_epoch": after}))
            history.epoch = earlier.epoch + history.epoch
            for name, values in history.history.items():
                values[:0] = earlier.history.get(name, [])
        return history

    def _takes_over(self, x, kwargs) -> bool:
        is_array = inputs.is_array(x) or isinstance(x, dict)
        return is_array and takes_over(kwargs) and not self._is_distributed()

    def _fed(self, x, y, kwargs):
        """Arguments for Keras: arrays as batches of our own, where these are as good."""
        if not self._takes_over(x, kwargs):
            seen = self._progress.numbers()["batch"]
            return kwargs | {"x": x.skip(seen) if seen else x, "y": y}
        kwargs = dict(kwargs)
        weight = kwargs.pop("sample_weight", None)
        arrays = (x,) if weight is None else (x, y, weight)
        size, shuffle = kwargs.pop("batch_size", None), kwargs.pop("shuffle", True)
        if kwargs.get("validation_data") is not None and not kwargs.get("validation_batch_size"):
            kwargs["validation_batch_size"] = size
        own = batches(arrays, size, bool(shuffle), self._progress)
        return kwargs | {"x": own, "shuffle": False}

    def _paced(self, kwargs: dict[str, Any], *asked: int) -> dict[str, Any]:
        """Sets how many steps run at a time; the arguments, with a bar that counts them rightly."""
        if not getattr(self, "_own_pace", False):
            return kwargs
        steps = steps_per_execution(len(self._flow.event_shape), kwargs.get("callbacks"), asked)
        steps = 1 if self._is_distributed() else steps  # strategies cannot run several at once
        if steps != self.steps_per_execution:
            self.steps_per_execution = steps
            self.train_function = self.test_function = self.predict_function = None
        return kwargs if steps == 1 else with_bar(kwargs)

    def _is_distributed(self) -> bool:
        with self.distribute_strategy.scope():
            return tf.distribute.has_strategy()


def _with_targets(weight, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets that mean nothing, without which Keras drops the weights; and the weights."""
    return np.zeros([count], np.float32), checked_weight(weight, count)
