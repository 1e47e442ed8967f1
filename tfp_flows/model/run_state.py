"""Everything that a training goes on from, registered in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core.evaluation import NoiseSource
from tfp_flows.keras_engine import keras
from tfp_flows.model.guard import Guard

_PARTS = ("seed", "step", "epoch", "batch")


class Progress:
    """The seed of a training, its steps, and the epochs and batches of the `fit` under way.

    Noise and the order of the rows follow from the seed and the step alone, so that a run that
    goes on from a file is the run that was not interrupted.
    """

    def __init__(self):
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        zeros = tf.zeros([len(_PARTS)], tf.int64)
        self._state = tf.Variable(zeros, trainable=False, aggregation=first, name="progress")
        self._noise = NoiseSource(self._noise_seed)  # one: in eager mode each step asks for it

    @property
    def state(self) -> dict[str, tf.Variable]:
        """All numbers, in one variable."""
        return {"numbers": self._state}

    def begin(self, initial_epoch: int, resumed: bool) -> int:
        """Starts a `fit`, or goes on with one that was read back; returns its first epoch."""
        now = self.numbers()
        if not now["seed"]:
            now["seed"] = int(tf.random.uniform([], 1, 2**31 - 1, tf.int32))
        if not resumed:
            now |= {"epoch": initial_epoch, "batch": 0}
        self._assign(now)
        return now["epoch"]

    def numbers(self) -> dict[str, int]:
        """Seed, steps in all, epochs that are done and batches in the next one."""
        return dict(zip(_PARTS, map(int, self._state.numpy()), strict=True))

    def _assign(self, numbers: dict[str, int]) -> None:
        self._state.assign(tf.constant([numbers[part] for part in _PARTS], tf.int64))

    def advance(self) -> None:
        """Counts a step; runs inside the training step."""
        self._state.assign_add(tf.constant([0, 1, 0, 1], tf.int64))

    def end_epoch(self, epoch: int) -> None:
        """Counts an epoch, the `epoch`-th from 0."""
        self._assign(self.numbers() | {"epoch": epoch + 1, "batch": 0})

    def begin_epoch_anew(self) -> None:
        """Forgets which batches of the epoch under way were seen."""
        self._assign(self.numbers() | {"batch": 0})

    def order_seed(self, seen: int) -> tf.Tensor:
        """The seed of an epoch's order of rows, shape [2].

        To be asked for when `seen` batches of the epoch have been trained on.
        """
        return self._state[:2] - tf.constant([0, seen], tf.int64)

    def noise(self) -> NoiseSource:
        """The noise of the step under way; other replicas draw other noise."""
        return self._noise

    def _noise_seed(self) -> tf.Tensor:
        seed = tf.cast(self._state[:2], tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)


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
