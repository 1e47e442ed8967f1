"""How far a training has come: what a resumed run needs besides weights and optimizer."""

from __future__ import annotations

import tensorflow as tf

from tfp_flows.core.noise import Noise

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
        self._noise = Noise(self._noise_seed)  # one: in eager mode each step asks for it

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

    def noise(self) -> Noise:
        """The noise of the step under way; other replicas draw other noise."""
        return self._noise

    def _noise_seed(self) -> tf.Tensor:
        seed = tf.cast(self._state[:2], tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)
