"""Backups of a training that may be killed at any moment."""

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
    """Keras's `BackupAndRestore` for a `FlowModel`, in one file that is whole at any moment.

    Run the same script again after an interruption: `fit` goes on where the last backup was
    made. Weights, the optimizer's state and loss scale, initialisation flags, the seed of noise and
    of the order of rows, the place in the epoch, and what the guard against outliers remembers
    are all in the file, so that the resumed run is the uninterrupted one. `fit` puts this callback
    in the place of Keras's own, whose weights and epoch are two files: between them a kill would
    have an epoch trained twice.

    Of arrays, an epoch that was interrupted goes on with the rows it had not seen; so it does of
    a `tf.data.Dataset` which gives the same batches each time. A generator's epoch begins anew.

    Args:
      backup_dir: a folder for the backup, which is made if need be.
      save_freq: `"epoch"`, or a number of batches after which there is a backup as well.
      delete_checkpoint: whether the backup goes once the training has ended.

    Raises:
      ValueError: another `save_freq`; a `backup_dir` that is not local; from `fit`: the backup is
        of another flow, or damaged.

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
            raise ValueError(f"save_freq is 'epoch' or a number of batches, got {save_freq!r}.")
        self.backup_dir = saving.local_path(backup_dir)
        self.save_freq = save_freq
        self.delete_checkpoint = delete_checkpoint
        self._unsaved = 0

    @property
    def path(self) -> Path:
        """The backup."""
        return self.backup_dir / "latest.weights.h5"

    def restore(self, model: keras.Model) -> bool:
        """Reads the backup into `model`; returns whether there was one."""
        remove_stale_drafts(self.path)
        if not self.path.exists():
            return False
        try:
            model.load_weights(self.path)
        except Exception as error:
            raise ValueError(
                f"The backup {self.path} cannot be read into this model: {error} To begin anew, "
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


def resumable(callbacks: list[Any]) -> list[Any]:
    """The callbacks, with ours in the place of Keras's own `BackupAndRestore`."""
    theirs = keras.callbacks.BackupAndRestore
    return [
        BackupAndRestore(c.backup_dir, c.save_freq, c.delete_checkpoint)
        if type(c) is theirs and c.save_freq
        else c
        for c in callbacks
    ]


def restore(model: keras.Model, callbacks: list[Any]) -> bool:
    """Restores `model` from the first backup that there is; returns whether there is one."""
    return any(c.restore(model) for c in callbacks if isinstance(c, BackupAndRestore))


@contextlib.contextmanager
def kept(callbacks: list[Any]) -> Iterator[None]:
    """Within the block, the end of a training does not delete its backups."""
    backups = [c for c in callbacks if isinstance(c, BackupAndRestore) and c.delete_checkpoint]
    for backup in backups:
        backup.delete_checkpoint = False
    try:
        yield
    finally:
        for backup in backups:
            backup.delete_checkpoint = True
