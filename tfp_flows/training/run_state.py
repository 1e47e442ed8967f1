"""Everything that a training goes on from, registered in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.keras_engine import keras
from tfp_flows.training.guard import Guard
from tfp_flows.training.progress import Progress


class RunState(keras.metrics.Metric):
    """What a resumed run needs besides the variables of the flow and of the optimizer.

    What is registered here is written to files and read back, restored if reading fails, and
    shared by workers. It is a metric only because Keras saves the state of metrics with the model.

    Args:
      progress: how far the run has come.
      guard: its memory of gradients, and the batches that it skipped and has not reported.
      of_optimizer: gives variables that the optimizer holds and Keras does not save, by name.
    """

    def __init__(
        self,
        progress: Progress,
        guard: Guard,
        of_optimizer: Callable[[], Mapping[str, tf.Variable]],
    ):
        super().__init__(name="run_state")
        self._progress, self._guard, self._of_optimizer = progress, guard, of_optimizer

    @property
    def by_name(self) -> dict[str, tf.Variable]:
        """The variables, under the names that they have in files."""
        parts = {
            "progress": self._progress.state,
            "guard": self._guard.state,
            "optimizer": self._of_optimizer(),
        }
        return {f"{part}.{name}": v for part, state in parts.items() for name, v in state.items()}

    def begin(self, initial_epoch: int, resumed: bool) -> int:
        """Starts a `fit`, or goes on with one that was read back; returns its first epoch."""
        if not resumed:
            self._guard.take()  # what an earlier `fit` has not reported
        return self._progress.begin(initial_epoch, resumed)

    def end_epoch(self, epoch: int) -> None:
        """Ends an epoch, the `epoch`-th from 0: a file written now is the start of the next."""
        self._progress.end_epoch(epoch)
        self._guard.end_epoch()

    def save_own_variables(self, store):
        for name, variable in self.by_name.items():
            store[name] = variable.numpy()

    def load_own_variables(self, store):
        for name, variable in self.by_name.items():
            if name in store.keys():  # noqa: SIM118, a store of Keras is no dict
                variable.assign(np.asarray(store[name]))

    def update_state(self, *_, **__):
        """Nothing: it measures nothing."""

    def result(self):
        return tf.zeros([])


class EpochEnds(keras.callbacks.Callback):
    """Ends epochs in the state; the first of all callbacks, since others save it."""

    def __init__(self, state: RunState):
        super().__init__()
        self._state = state

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None):
        self._state.end_epoch(epoch)
