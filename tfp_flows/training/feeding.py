"""How data reach `fit` and `evaluate`: checked, in batches, at a pace."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.keras_engine import keras
from tfp_flows.training import data as inputs
from tfp_flows.training import replicas
from tfp_flows.training.backup import kept, restore, resumable
from tfp_flows.training.batches import batches, in_order, takes_over
from tfp_flows.training.guard import StopWhenNotFinite
from tfp_flows.training.health import FlowHealth
from tfp_flows.training.pace import steps_per_execution
from tfp_flows.training.run_state import EpochEnds


class FlowFeeding:
    """The part of `FlowModel` between its arguments and Keras's own loop."""

    def _checked_inputs(self, x, y, kwargs):
        x = inputs.checked(x, self._flow)
        weight = kwargs.get("sample_weight")
        if weight is not None:
            inputs.check_weight(weight)
            y = (
                tf.zeros([inputs.rows(x)]) if y is None else y
            )  # without targets Keras drops the weights
        return x, y, kwargs

    def _checked_validation(self, validation, batch_size: int | None):
        if isinstance(validation, tf.data.Dataset):
            return inputs.checked(validation, self._flow)
        x, rest = inputs.split(validation, self._flow)
        x = inputs.checked(x, self._flow)
        y, weight = (*rest, None, None)[:2]
        if weight is not None:
            inputs.check_weight(weight)
            y = tf.zeros([inputs.rows(x)]) if y is None else y
        arrays = tuple(a for a in (x, y, weight) if a is not None)
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
            callbacks = resumable(tf.nest.flatten(callbacks))
            resumed = restore(self, callbacks)
            # Epochs are counted before others save, and faults are raised after that.
            watched = any(isinstance(c, FlowHealth) for c in callbacks)
            last = [] if watched else [StopWhenNotFinite(self._guard)]
            callbacks = [EpochEnds(self._run), *callbacks, *last]
        first = self._run.begin(kwargs.get("initial_epoch", 0), resumed)
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
            self._progress.begin_epoch_anew()  # nobody knows where it was
        after = kwargs["initial_epoch"] + 1
        if not self._progress.numbers()["batch"]:
            return super().fit(**self._fed(x, y, kwargs))
        with kept(kwargs["callbacks"]):
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
        arrays = (x,) if weight is None else (x, np.asarray(y), np.asarray(weight))
        size, shuffle = kwargs.pop("batch_size", None), kwargs.pop("shuffle", True)
        if kwargs.get("validation_data") is not None and not kwargs.get("validation_batch_size"):
            kwargs["validation_batch_size"] = size
        own = batches(arrays, size, bool(shuffle), self._progress)
        return kwargs | {"x": own, "shuffle": False}

    def _set_pace(self, callbacks) -> None:
        if not getattr(self, "_own_pace", False):
            return
        steps = steps_per_execution(len(self._flow.event_shape), callbacks)
        steps = 1 if self._is_distributed() else steps  # strategies cannot run several at once
        if steps != self.steps_per_execution:
            self.steps_per_execution = steps
            self.train_function = self.test_function = self.predict_function = None

    def _is_distributed(self) -> bool:
        with self.distribute_strategy.scope():
            return tf.distribute.has_strategy()
