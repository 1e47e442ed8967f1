"""How data reach `fit` and `evaluate`: checked, in batches, at a pace."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.keras_engine import keras
from tfp_flows.training import data as inputs
from tfp_flows.training import replicas
from tfp_flows.training.backup import kept, restore, resumable
from tfp_flows.training.batches import batches, in_order, takes_over
from tfp_flows.training.health import FlowHealth
from tfp_flows.training.pace import steps_per_execution, with_bar
from tfp_flows.training.run_state import EpochEnds
from tfp_flows.training.stop import StopWhenDiverged
from tfp_flows.training.weights import checked_weight


class FlowFeeding:
    """The part of `FlowModel` between its arguments and Keras's own loop."""

    def _checked_inputs(self, x, y, kwargs, where: str):
        """Arguments of `where`, a method of Keras, after all checks."""
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "class_weight weighs the classes of targets, which a flow does not have: give "
                "each example its weight, as sample_weight=."
            )
        inputs.refuse_targets(y, self._flow, where)
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
            inputs.refuse_targets(None if context else y, self._flow, "validation_data")
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
            callbacks = resumable(tf.nest.flatten(callbacks))
            resumed = restore(self, callbacks)
            # Epochs are counted before others save, and faults are raised after that.
            watched = any(isinstance(c, FlowHealth) for c in callbacks)
            last = [] if watched else [StopWhenDiverged()]
            callbacks = [EpochEnds(self.run_state), *callbacks, *last]
        first = self.run_state.begin(kwargs.get("initial_epoch", 0), resumed)
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
