"""Atomic writes: a file or folder appears whole, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf


def local_path(path: str | os.PathLike) -> Path:
    """The path, unless it is an address elsewhere, which `pathlib` would take for a folder `gs:`.

    Raises:
      ValueError: it is such an address, as `gs://bucket/flow`.
    """
    if "://" in os.fspath(path):
        raise ValueError(
            f"{path} is not a local path. Flows are written and read locally, where a file can "
            "take the place of an old one in one step: write to a local folder and copy the file "
            "or folder from there, or copy it here first (gcloud storage cp -r, aws s3 cp "
            "--recursive, tf.io.gfile.copy)."
        )
    return Path(path)


def with_parents(path: str | os.PathLike) -> Path:
    """The local path, once the folders that lead to it are there.

    Raises:
      ValueError: it is not local.
      OSError: a folder cannot be made; PermissionError and the like where the system says so.
    """
    target = local_path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"Cannot write {target}: the folder {target.parent} cannot be made"
        raise type(error)(error.errno, f"{message} ({error.strerror})") from error
    return target


try:
    import fcntl
except ImportError:  # Windows has no such locks: stale drafts stay there
    fcntl = None

_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike,
    overwrite: bool = True,
    prove: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves it into place if all went well.

    Folders that lead to it are made. The old file or directory stays untouched until the new one
    is complete, proved and on the disk. A symbolic link stays one: what it points to is replaced.
    Permissions of a file that is replaced are kept; a hard link to it keeps the old content. Drafts
    of processes that were killed are removed.

    Args:
      path: where the file or directory is to be.
      overwrite: whether something may be there already.
      prove: checks what was written; whatever it raises reaches the caller as it is.

    Raises:
      FileExistsError: it is there, and `overwrite` is False; or a file would take the place of a
        folder, or the other way round; or it is a folder that holds anything else than a
        SavedModel.
      ValueError: the path is not local.
      OSError: the system refused, as on a full disk (PermissionError: on a read-only one).
    """
    with_parents(path)
    with _named_errors(path):
        target = _checked_target(path, overwrite)
    remove_stale_drafts(target)
    with _draft_of(target, path) as draft:
        with _named_errors(path):
            yield draft
            if target.exists() and target.is_dir() != draft.is_dir():
                raise FileExistsError(f"it is a {'folder' if target.is_dir() else 'file'}")
            _flush(draft)  # or a power cut could leave neither the old nor the new
            if target.exists():
                shutil.copymode(target, draft)
        if prove is not None:
            prove(draft)
        with _named_errors(path):
            if target.is_dir():
                _exchange(draft, target)
            else:
                draft.replace(target)
            _flush(target.parent, deep=False)


def _checked_target(path: str | os.PathLike, overwrite: bool) -> Path:
    """Where to write: `path`, or what it links to."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "its symbolic links lead in a circle")
    if target.exists() and not overwrite:
        raise FileExistsError("it exists. Choose another name, or pass overwrite=True")
    if target.is_dir() and not _is_saved_model(target):
        raise FileExistsError(
            "it is a folder that holds other things, which would be lost. Choose another name"
        )
    with_parents(target)  # of what a link points to
    for place in (target.parent, target):
        if place.exists() and not _is_writable(place):
            raise PermissionError(f"{place} is read-only")
    return target


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _is_saved_model(folder: Path) -> bool:
    """Whether a folder is empty, or a SavedModel and nothing else."""
    names = set(os.listdir(folder))
    return not names or ("saved_model.pb" in names and names <= _SAVED_MODEL)


@contextlib.contextmanager
def _named_errors(path: str | os.PathLike) -> Iterator[None]:
    """Errors of the system, and of TensorFlow while it writes, say what could not be written."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        kind = type(error) if type(error).__module__ == "builtins" else OSError
        cause = getattr(error, "strerror", None) or error
        message = f"Cannot write {path}, and what was there before is untouched: {cause}"
        number = getattr(error, "errno", None)
        raise (kind(message) if number is None else kind(number, message)) from error


@contextlib.contextmanager
def _draft_of(target: Path, path: str | os.PathLike) -> Iterator[Path]:
    """A path for a draft, in a folder of its own that is locked as long as this process lives."""
    folder, lock = None, None
    try:
        with _named_errors(path):
            while lock is None:
                folder = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
                folder.mkdir(mode=0o700)  # what it replaces may be private
                lock = _lock(folder)
        yield folder / target.name  # the same ending, since Keras picks the format by it
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_stale_drafts(target: str | os.PathLike) -> None:
    """Removes the drafts of `target` whose writers were killed; those of living ones are locked."""
    target = Path(os.path.realpath(target))
    if fcntl is None or not target.parent.is_dir():
        return
    pattern = re.compile(rf"\.[0-9a-f]{{8}}\.{re.escape(target.name)}")
    for name in os.listdir(target.parent):
        if pattern.fullmatch(name):
            folder = target.with_name(name)
            with contextlib.suppress(OSError):  # it lives, or is somebody else's
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(handle)


def _lock(folder: Path) -> int | None:
    """Locks a new folder until it is closed; None if another process has removed it meanwhile."""
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # a file system without locks: nobody removes drafts there
        fcntl.flock(handle, fcntl.LOCK_EX)
    if folder.exists():
        return handle
    os.close(handle)
    return None


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
    aside = other.with_name(f"{one.parent.name}.old")  # which is not taken for a stale draft
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
