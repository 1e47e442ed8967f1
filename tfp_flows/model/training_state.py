"""Everything that a training goes on from, registered in one place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import private, variable_paths
from tfp_flows.core.evaluation import NoiseSource
from tfp_flows.core.variables import Snapshot
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model import loss_scaling
from tfp_flows.model.guard import Guard

tfd = tfp.distributions

_COUNTERS = ("seed", "step", "epoch", "batch")
_RATE = "optimizer.learning_rate"


class Progress:
    """The seed of a training, its steps, and the epochs and batches of the current `fit`.

    Noise and the order of the rows follow from the seed and the step alone, so that a resumed run
    equals an uninterrupted one.
    """

    def __init__(self):
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        zeros = tf.zeros([len(_COUNTERS)], tf.int64)
        self._counters = tf.Variable(zeros, trainable=False, aggregation=first, name="progress")
        self._noise = NoiseSource(self._noise_seed)  # one object: in eager mode each step reads it

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The counters, in one variable."""
        return {"counters": self._counters}

    def begin(self, initial_epoch: int, resumed: bool) -> int:
        """Starts a `fit`, or continues one that was read from a file; returns its first epoch."""
        now = self.numbers()
        if not now["seed"]:
            now["seed"] = int(tf.random.uniform([], 1, 2**31 - 1, tf.int32))
        if not resumed:
            now |= {"epoch": initial_epoch, "batch": 0}
        self._assign(now)
        return now["epoch"]

    def numbers(self) -> dict[str, int]:
        """The seed, all steps so far, finished epochs and batches of the next one."""
        return dict(zip(_COUNTERS, map(int, self._counters.numpy()), strict=True))

    def _assign(self, numbers: dict[str, int]) -> None:
        self._counters.assign(tf.constant([numbers[name] for name in _COUNTERS], tf.int64))

    def advance(self) -> None:
        """Counts a step; runs inside the training step."""
        self._counters.assign_add(tf.constant([0, 1, 0, 1], tf.int64))

    def end_epoch(self, epoch: int) -> None:
        """Counts an epoch, the `epoch`-th from 0."""
        self._assign(self.numbers() | {"epoch": epoch + 1, "batch": 0})

    def restart_epoch(self) -> None:
        """Forgets which batches of the current epoch were seen."""
        self._assign(self.numbers() | {"batch": 0})

    def order_seed(self, seen: int) -> tf.Tensor:
        """The seed, shape [2], of an epoch's order of rows, after `seen` batches of that epoch."""
        return self._counters[:2] - tf.constant([0, seen], tf.int64)

    def noise(self) -> NoiseSource:
        """The noise of the current step, different on each replica."""
        return self._noise

    def _noise_seed(self) -> tf.Tensor:
        seed = tf.cast(self._counters[:2], tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)


class TrainingState(keras.metrics.Metric):
    """The registry of all variables that a training goes on from.

    What is registered here is saved and resumed, restored where reading a file fails, sent to the
    other workers, and, but for `progress`, rolled back. It is a metric only because Keras saves
    the state of metrics with the model.

    Args:
      flow: the distribution that is trained.
      get_optimizer: a function that returns the optimizer, or None before there is one.

    Attributes:
      progress: how far the run has come.
      guard: what it remembers of gradients, and the batches that it skipped and has not reported.
    """

    def __init__(self, flow: tfd.Distribution, get_optimizer: Callable[[], Any]):
        super().__init__(name="training_state")
        # Held in a function, as Keras would track variables that are held directly.
        self._flow_variables = functools.partial(variable_paths, flow)
        self._get_optimizer = get_optimizer
        self.progress = Progress()
        self.guard = Guard()

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """All variables: `flow.<path>`, `optimizer.<number>`, `progress.<name>`, `guard.<name>`."""
        of_flow = {f"flow.{path}": v for path, v in self._flow_variables().items()}
        return of_flow | self._optimizer_variables() | self._own_variables()

    def _optimizer_variables(self) -> dict[str, tf.Variable]:
        optimizer = self._get_optimizer()
        variables, rate = getattr(optimizer, "variables", ()), private.learning_rate(optimizer)
        variables = variables() if callable(variables) else variables  # in older tf_keras
        return {  # by number, as names need not differ
            _RATE if v is rate else f"optimizer.{i}": private.tf_variable(v)
            for i, v in enumerate(variables)
        }

    def _own_variables(self) -> dict[str, tf.Variable]:
        """Those that Keras saves nowhere else."""
        optimizer = self._get_optimizer()
        of_optimizer = loss_scaling.scale_state(optimizer)
        rate = private.learning_rate(optimizer)
        if IS_LEGACY and isinstance(rate, tf.Variable):  # which is not among its `variables`
            of_optimizer = {**of_optimizer, "learning_rate": rate}
        parts = {
            "progress": self.progress.state,
            "guard": self.guard.state,
            "optimizer": of_optimizer,
        }
        return {f"{part}.{name}": v for part, state in parts.items() for name, v in state.items()}

    def snapshot(self) -> Snapshot:
        """The values of now, to roll back to.

        Without the learning rate, which a roll-back lowers, and without `progress`, as the run goes
        on: a second try has noise and an order of rows of its own.
        """
        variables = self.variables_by_name()
        return Snapshot(
            v for name, v in variables.items() if name != _RATE and not name.startswith("progress.")
        )

    def begin(self, initial_epoch: int, resumed: bool) -> int:
        """Starts a `fit`, or continues one that was read from a file; returns its first epoch."""
        if not resumed:
            self.guard.take()  # what an earlier `fit` has not reported
        return self.progress.begin(initial_epoch, resumed)

    def end_epoch(self, epoch: int) -> None:
        """Ends an epoch, the `epoch`-th from 0: a file written now is the start of the next."""
        self.progress.end_epoch(epoch)
        self.guard.end_epoch()

    def save_own_variables(self, store: Any) -> None:
        for name, variable in self._own_variables().items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        for name, variable in self._own_variables().items():
            if name in store.keys():  # noqa: SIM118, a Keras store is not a dict
                variable.assign(np.asarray(store[name]))

    def update_state(self, *_, **__):
        """Does nothing."""

    def result(self):
        return tf.zeros([])
