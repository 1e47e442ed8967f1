"""Writes that happen whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from tfp_flows.saving.paths import with_parents


@contextlib.contextmanager
def whole_or_not_at_all(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves it into place if all went well.

    Folders that lead to it are made. The old file or directory stays untouched until the new one
    is complete and on the disk.

    Args:
      path: where the file or directory shall be.
      overwrite: whether something may be there already.

    Raises:
      FileExistsError: it is there, and `overwrite` is False; or it is a folder that holds
        anything else than a SavedModel.
      ValueError: the path is not local.
      OSError: the system refused, as on a full disk (PermissionError: on a read-only one).
    """
    target = with_parents(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists. Choose another name, or pass overwrite=True.")
    if target.is_dir() and any(target.iterdir()) and not (target / "saved_model.pb").is_file():
        raise FileExistsError(
            f"{target} is a folder that holds other things, which would be lost. Choose another "
            "name."
        )
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"Cannot write {target}: {target.parent} is read-only.")
    # The same ending, since Keras picks the format by it.
    draft = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        yield draft
        _flush(draft)  # or a power cut could leave neither the old nor the new
        if target.is_dir():
            _exchange(draft, target)
        else:
            draft.replace(target)
    except (OSError, tf.errors.OpError) as error:
        message = f"Cannot write {target}, and what was there before is untouched: {error}"
        raise OSError(getattr(error, "errno", None), message) from error
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)
    _flush(target.parent, deep=False)


def reserve(path: Path, size: int) -> None:
    """Asks for `size` bytes of disk for a file, where the system lets one ask.

    HDF5 does not get over a disk that fills up under it: the process may crash much later.

    Raises:
      OSError: the disk is full, or the file may not be that large.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _flush(path: Path, deep: bool = True) -> None:
    """Waits until a file, or a folder with all that is in it, has reached the disk."""
    within = path.rglob("*") if deep and path.is_dir() else ()
    for each in (*within, path):
        if each.is_dir() and os.name != "posix":  # folders cannot be opened there
            continue
        handle = os.open(each, os.O_RDONLY if each.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _exchange(one: Path, other: Path) -> None:
    """Lets two folders change places; on Linux in one step, so that no moment lacks either."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None), "renameat2", None)
        if rename and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
            return
    aside = other.with_name(f".{uuid.uuid4().hex[:8]}.{other.name}")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
