"""How many training steps run between two looks at Keras's callbacks."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfp_flows.keras_engine import keras

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
