"""Atomic writes: a file or folder appears complete, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

try:
    import fcntl
except ImportError:  # Windows has no such locks: stale drafts stay there
    fcntl = None

_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def local_path(path: str | os.PathLike) -> Path:
    """Returns the path, which must be local.

    Raises:
      ValueError: if it is a remote address such as `gs://bucket/flow`, which `pathlib` would take
        for a folder named `gs:`.
    """
    if "://" in os.fspath(path):
        raise ValueError(
            f"{path} is not a local path. Flows are written and read locally, where a file can "
            "replace an old one in one step: write to a local folder and copy the file or folder "
            "from there, or copy it here first (gcloud storage cp -r, aws s3 cp --recursive, "
            "tf.io.gfile.copy)."
        )
    return Path(path)


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike,
    overwrite: bool = True,
    verify: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Yields a temporary path to write to, and moves it to `path` if the block succeeds.

    Parent folders are created. The old file or folder stays untouched until the new one is
    complete, verified and flushed to disk. If `path` is a symbolic link, what it points to is
    replaced. The permissions of a replaced file are kept; a hard link to it keeps the old content.
    Drafts that killed processes have left behind are removed.

    Args:
      path: where the file or folder is to be.
      overwrite: whether an existing file or folder is replaced.
      verify: called with the draft before it is moved; its exceptions are passed on unchanged.

    Raises:
      FileExistsError: if `path` exists and `overwrite` is False; if a file would replace a folder
        or the other way round; if it is a folder with other content than a SavedModel.
      ValueError: if the path is not local.
      OSError: if the system refuses, as on a full disk (PermissionError: on a read-only one).
    """
    local_path(path)
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
        if verify is not None:
            verify(draft)
        with _named_errors(path):
            if target.is_dir():
                _exchange(draft, target)
            else:
                draft.replace(target)
            _flush(target.parent, deep=False)


def remove_stale_drafts(target: str | os.PathLike) -> None:
    """Removes the drafts of `target` whose processes have ended; running ones lock theirs."""
    target = Path(os.path.realpath(target))
    if fcntl is None or not target.parent.is_dir():
        return
    pattern = re.compile(rf"\.[a-z0-9_]{{8}}\.{re.escape(target.name)}")
    for name in filter(pattern.fullmatch, os.listdir(target.parent)):
        folder = target.with_name(name)
        with contextlib.suppress(OSError):  # locked, or not ours to remove
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(handle)


def reserve(path: Path, size: int) -> None:
    """Allocates `size` bytes of disk for a file, where the system supports that.

    HDF5 does not recover from a disk that fills up while it writes: the process may crash later.

    Raises:
      OSError: if the disk is full, or the file may not be that large.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _checked_target(path: str | os.PathLike, overwrite: bool) -> Path:
    """Returns where to write: `path`, or what it links to. Its parent folders exist then."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "its symbolic links lead in a circle")
    if target.exists() and not overwrite:
        raise FileExistsError("it exists. Choose another name, or pass overwrite=True")
    if target.is_dir() and not _is_saved_model(target):
        raise FileExistsError(
            "it is a folder that holds other things, which would be lost. Choose another name"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {target.parent} cannot be made ({error.strerror})"
        raise type(error)(error.errno, message) from error
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
    """Lets errors of the system and of TensorFlow's writers say what could not be written."""
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
    """Yields a path for a draft, in a folder of its own that stays locked while this runs."""
    folder, lock = None, None
    try:
        with _named_errors(path):
            while lock is None:  # private, as what it replaces may be
                name = tempfile.mkdtemp(f".{target.name}", prefix=".", dir=target.parent)
                folder = Path(name)
                lock = _lock(folder)
        yield folder / target.name  # Keras chooses the format by the ending
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Locks a new folder until the handle is closed; None if another process has removed it."""
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


def _flush(path: Path, deep: bool = True) -> None:
    """Waits until a file, or a folder with its content, has reached the disk."""
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
    """Swaps two folders.

    On Linux in one step, which Python has no function for: a server that watches `other` would
    not find it between two renames.
    """
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None), "renameat2", None)
        if rename and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
            return
    aside = other.with_name(f"{one.parent.name}.old")  # which is not taken for a stale draft
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
