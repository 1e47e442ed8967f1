"""How many steps Keras runs at a time, and a progress bar that counts them."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfp_flows.keras_engine import keras
from tfp_flows.model.data_checks import in_memory

# For vectors a step takes milliseconds, and what Keras does between steps a good part of one.
MAX_STEPS = 10
_HOOKS = (
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_batch_begin",
    "on_batch_end",
)


def steps_per_execution(event_ndims: int, arguments: dict[str, Any]) -> int:
    """More than 1 for flows over vectors, unless a callback has a hook for every batch.

    Args:
      event_ndims: of the flow.
      arguments: of `fit`, `evaluate` or `predict`. Where they give a number of steps, it is a
        multiple of the result: Keras would run more steps otherwise.
    """
    callbacks = arguments.get("callbacks") or ()
    if event_ndims != 1 or not isinstance(callbacks, list | tuple):
        return 1
    if any(_has_batch_hooks(c) for c in callbacks):
        return 1
    steps = arguments.get("steps_per_epoch") or arguments.get("steps")
    common = math.gcd(
        _requested(arguments["x"], steps), int(arguments.get("validation_steps") or 0)
    )
    return max(n for n in range(1, MAX_STEPS + 1) if common % n == 0)


def _requested(data: Any, steps: int | None) -> int:
    """The number of steps that was requested; 0 for all of the data, 1 if it is unknown."""
    if steps:
        return int(steps)
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality() < 0)
    return int(not in_memory(data))


def _has_batch_hooks(callback: Any) -> bool:
    if getattr(callback, "save_freq", None) == "epoch":  # Keras's checkpoints
        return False
    plain = keras.callbacks.Callback
    return any(
        getattr(getattr(callback, hook, None), "__func__", None) is not getattr(plain, hook)
        for hook in _HOOKS
    )


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras's, which would count steps that the last, shorter execution of an epoch has not run."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(self._done(batch), logs)

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(self._done(batch), logs)

    def on_predict_batch_end(self, batch, logs=None):
        super().on_predict_batch_end(self._done(batch), logs)

    def _done(self, batch: int) -> int:
        return batch if self.target is None else min(batch, self.target - 1)


def with_progress_bar(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a method of Keras with `ProgressBar` in place of Keras's own."""
    callbacks = arguments.get("callbacks") or []
    if arguments.get("verbose") == 0 or not isinstance(callbacks, list | tuple):
        return arguments
    if any(isinstance(c, keras.callbacks.ProgbarLogger) for c in callbacks):
        return arguments
    return arguments | {"callbacks": [*callbacks, ProgressBar()]}
