"""How many training steps run between two looks at Keras's callbacks."""

from __future__ import annotations

from typing import Any

from tfp_flows.keras_engine import keras

# For vectors a step takes milliseconds, and what Keras does between steps a good part of one.
STEPS_OF_VECTORS = 10
_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin", "on_test_batch_end")
_OLD_HOOKS = ("on_batch_begin", "on_batch_end")


def steps_per_execution(event_ndims: int, callbacks: Any) -> int:
    """Several at once for flows over vectors, unless a callback wants to see every batch."""
    if event_ndims != 1 or (callbacks and not isinstance(callbacks, list | tuple)):
        return 1
    return 1 if any(_sees_batches(c) for c in callbacks or ()) else STEPS_OF_VECTORS


def _sees_batches(callback: Any) -> bool:
    if getattr(callback, "save_freq", None) == "epoch":  # Keras's checkpoints
        return False
    plain = keras.callbacks.Callback
    return any(
        getattr(getattr(callback, hook, None), "__func__", None) is not getattr(plain, hook)
        for hook in (*_HOOKS, *_OLD_HOOKS)
    )
