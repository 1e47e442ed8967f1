"""Writes that happen whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_or_not_at_all(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves it into place if all went well.

    The old file or directory stays untouched until the new one is complete.

    Args:
      path: where the file or directory shall be.
      overwrite: whether something may be there already.

    Raises:
      FileExistsError: it is there, and `overwrite` is False; or it is a folder that holds
        anything else than a SavedModel.
      FileNotFoundError: the folder to write to does not exist.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists. Choose another name, or pass overwrite=True.")
    if target.is_dir() and any(target.iterdir()) and not (target / "saved_model.pb").is_file():
        raise FileExistsError(
            f"{target} is a folder that holds other things, which would be lost. Choose another "
            "name."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {target}: there is no folder {target.parent}.")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"Cannot write {target}: {target.parent} is read-only.")
    # The same ending, since Keras picks the format by it.
    draft = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        yield draft
        if draft.is_dir() and target.is_dir():
            old = target.with_name(f".{uuid.uuid4().hex[:8]}.old.{target.name}")
            target.rename(old)
            draft.rename(target)
            shutil.rmtree(old)
        else:
            draft.replace(target)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)
