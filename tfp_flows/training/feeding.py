"""How data reach `fit` and `evaluate`: checked, in batches, at a pace."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.training import data as inputs
from tfp_flows.training.batches import batches, takes_over
from tfp_flows.training.pace import steps_per_execution


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

    def _checked_validation(self, validation):
        if isinstance(validation, tf.data.Dataset):
            return inputs.checked(validation, self._flow)
        x, rest = inputs.split(validation, self._flow)
        x = inputs.checked(x, self._flow)
        y, weight = (*rest, None, None)[:2]
        if weight is None:
            return (x,) if y is None else (x, y)
        inputs.check_weight(weight)
        return x, tf.zeros([inputs.rows(x)]) if y is None else y, weight

    def _own_batches(self, x, y, kwargs):
        """Arrays to train on as a data set of this package's own, where that is as good."""
        if not ((inputs.is_array(x) or isinstance(x, dict)) and takes_over(kwargs)):
            return x, y, kwargs
        kwargs = dict(kwargs)
        weight = kwargs.pop("sample_weight", None)
        arrays = (x,) if weight is None else (x, np.asarray(y), np.asarray(weight))
        size, shuffle = kwargs.pop("batch_size", None), kwargs.pop("shuffle", True)
        if kwargs.get("validation_data") is not None and not kwargs.get("validation_batch_size"):
            kwargs["validation_batch_size"] = size
        return batches(arrays, size, bool(shuffle)), None, kwargs | {"shuffle": False}

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
