"""Where files go: to a local folder, which is made if need be."""

from __future__ import annotations

import os
from pathlib import Path


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
