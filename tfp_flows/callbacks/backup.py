"""Backups of a training that may be interrupted at any moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfp_flows import saving
from tfp_flows.keras_engine import keras
from tfp_flows.saving import remove_stale_drafts


class BackupAndRestore(keras.callbacks.Callback):
    """Keras's `BackupAndRestore` for a `FlowModel`, in one file that is written atomically.

    Run the same script again after an interruption: `fit` resumes where the last backup was made.
    The file holds the weights, the optimizer's state and loss scale, the initialisation flags, the
    seed of noise and of the order of rows, the position in the epoch, and the usual size of the
    gradients, so that the resumed run equals an uninterrupted one. `fit` replaces Keras's own
    callback by this one: it writes weights and epoch to two files, and a kill between them
    would repeat an epoch.

    An interrupted epoch of arrays resumes with the rows that it has not seen, and so does one of a
    `tf.data.Dataset` that gives the same batches each time. An epoch of a generator starts again.

    Args:
      backup_dir: a local folder for the backup, created if missing.
      save_freq: `"epoch"`; or a number of batches, after which there is a backup as well as at the
        end of each epoch.
      delete_checkpoint: whether the backup is deleted at the end of the training.

    Raises:
      ValueError: if `save_freq` is neither `"epoch"` nor a positive int, or `backup_dir` is not
        local; from `fit`, if the backup is of another flow or damaged.

    Example:
      >>> import tempfile
      >>> import tfp_flows as flows
      >>> model = flows.FlowModel(flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,)))
      >>> model.compile(optimizer="adam")
      >>> x = np.random.RandomState(0).normal(size=(64, 2))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     backup = BackupAndRestore(folder, delete_checkpoint=False)
      ...     history = model.fit(x, epochs=2, verbose=0, callbacks=[backup])
      ...     history = model.fit(x, epochs=3, verbose=0, callbacks=[backup])
      >>> history.epoch
      [2]
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike,
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ):
        super().__init__()
        if save_freq != "epoch" and not (type(save_freq) is int and save_freq > 0):
            raise ValueError(
                f"save_freq must be 'epoch' or a number of batches, got {save_freq!r}."
            )
        self.backup_dir = saving.local_path(backup_dir)
        self.save_freq = save_freq
        self.delete_checkpoint = delete_checkpoint
        self._unsaved = 0

    @property
    def path(self) -> Path:
        """The path of the backup."""
        return self.backup_dir / "latest.weights.h5"

    def restore(self, model: keras.Model) -> bool:
        """Reads the backup into `model`.

        Args:
          model: a `FlowModel`.

        Returns:
          Whether there was a backup.

        Raises:
          ValueError: if the backup is of another flow, or damaged.
        """
        remove_stale_drafts(self.path)
        if not self.path.exists():
            return False
        try:
            model.load_weights(self.path)
        except Exception as error:
            raise ValueError(
                f"The backup {self.path} cannot be read into this model: {error} To start again, "
                "move it away."
            ) from error
        return True

    def on_epoch_end(self, epoch, logs=None):
        self._save()

    def on_train_batch_end(self, batch, logs=None):
        if self.save_freq == "epoch":
            return
        self._unsaved += 1
        if self._unsaved >= self.save_freq:
            self._save()

    def _save(self) -> None:
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        self.model.save_weights(self.path)
        self._unsaved = 0

    def on_train_end(self, logs=None):
        if not self.delete_checkpoint:
            return
        self.path.unlink(missing_ok=True)
        remove_stale_drafts(self.path)
        with contextlib.suppress(OSError):  # not empty, or gone already: other workers end as well
            self.backup_dir.rmdir()


def replace_keras_backups(callbacks: list[Any]) -> list[Any]:
    """The callbacks, each `BackupAndRestore` of Keras replaced by ours."""
    theirs = keras.callbacks.BackupAndRestore
    return [
        BackupAndRestore(c.backup_dir, c.save_freq, c.delete_checkpoint)
        if type(c) is theirs and c.save_freq
        else c
        for c in callbacks
    ]


def restore_backup(model: keras.Model, callbacks: list[Any]) -> bool:
    """Restores `model` from the first backup found; returns whether there is one."""
    return any(c.restore(model) for c in callbacks if isinstance(c, BackupAndRestore))


@contextlib.contextmanager
def keep_backups(callbacks: list[Any]) -> Iterator[None]:
    """Within the block, the end of a training does not delete its backups."""
    backups = [c for c in callbacks if isinstance(c, BackupAndRestore) and c.delete_checkpoint]
    for backup in backups:
        backup.delete_checkpoint = False
    try:
        yield
    finally:
        for backup in backups:
            backup.delete_checkpoint = True
