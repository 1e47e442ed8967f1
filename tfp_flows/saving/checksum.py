"""Checksums and format numbers: a damaged file, or one of another format, is an error.

A weights file holds the SHA-256 checksum of all its bytes but the checksum's own, as an attribute
of its root group. So a file is checked before HDF5 reads it: on some damaged files HDF5 hangs.
The weights in a `.keras` file are such a file, and a SavedModel has a list for `sha256sum`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tfp_flows.core import private
from tfp_flows.saving.atomic import local_path
from tfp_flows.version import __version__

FORMAT = 3  # of descriptions and of the names of weights

_OLD = {
    1: "names weights by private attributes, and leaves arguments at their defaults out",
    2: "has other names of arguments and another layout of parameters",
}

_CHECKSUM = "tfp_flows_sha256"  # attributes of an HDF5 file
_FORMAT = "tfp_flows_format"
_WRITTEN_BY = "tfp_flows"  # the version of the package
_HEX_DIGITS = re.compile(rb"(?<=tfp_flows_sha256=)[0-9a-f]{64}")
_WEIGHTS = "model.weights.h5"  # in a .keras file
_SUMS = "assets.extra/sha256sums"  # in a SavedModel, for `sha256sum --check` too


def check_format(found: Any, written_by: str | None) -> None:
    """Checks that a file has the format that this version reads and writes.

    Args:
      found: the number in the file.
      written_by: the version of tfp_flows that wrote it, if the file says so.

    Raises:
      ValueError: if it has another format; the message says which, and what to do.
    """
    if found == FORMAT:
        return
    file = f"The file was written by tfp_flows {written_by or '(unknown)'} in format {found}"
    here = f"this is tfp_flows {__version__}, which reads format {FORMAT}"
    if found in _OLD:
        raise ValueError(
            f"{file}, which {_OLD[found]}; {here}. Load it with the version that wrote it, and "
            "copy the values by hand."
        )
    raise ValueError(f"{file}; {here}. Load it with that version or a newer one.")


def verify(path: str | os.PathLike) -> None:
    """Verifies the checksum of a saved flow, without loading it.

    Loading a `.keras` or `.weights.h5` file verifies it too. A SavedModel is loaded by TensorFlow,
    which checks its variables but not its graph: verify it where it arrives.

    Args:
      path: a `.keras` or `.weights.h5` file, or the folder of a SavedModel.

    Raises:
      FileNotFoundError: if nothing is there.
      ValueError: if it is damaged, or holds no checksum, as files of other programs; if the path
        is not local.

    Example:
      >>> import os, tempfile
      >>> import tfp_flows as flows
      >>> path = os.path.join(tempfile.mkdtemp(), "flow.weights.h5")
      >>> flows.FlowModel(flows.nice((2,), layers=2, hidden=(4,))).save_weights(path)
      >>> flows.verify(path)
      >>> with open(path, "r+b") as file:
      ...     _ = file.truncate(2000)
      >>> flows.verify(path)
      Traceback (most recent call last):
      ValueError: ...flow.weights.h5 is damaged, or not a file of this kind: ...
    """
    if not validate_checksum(path):
        raise ValueError(f"{path} holds no checksum to verify: it was not written by tfp_flows.")


def validate_checksum(path: str | os.PathLike) -> bool:
    """As `verify`, but accepts files without a checksum; returns whether there was one."""
    path = local_path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    if path.is_dir():
        check = _check_folder
    else:
        check = _check_keras_file if path.suffix == ".keras" else _check_weights_file
    try:
        return check(path)
    except Exception as error:  # of many kinds, from the readers of damaged files
        raise ValueError(f"{path} is damaged, or not a file of this kind: {error}") from error


def check_store(store: Any) -> None:
    """Checks the HDF5 file that Keras loads weights from.

    Args:
      store: what Keras passes to `load_own_variables`.

    Raises:
      ValueError: if the file is damaged, has another format, or refers to data elsewhere. A file
        without a checksum, of another program, is accepted.
    """
    file = private.hdf5_of(store)
    if file is None:
        return
    if file.driver == "fileobj":  # in a .keras file
        _has_checksum(file.id.get_file_image())
    else:
        with _content(file.filename) as content:
            _has_checksum(content)
    _check_datasets(file)
    if _FORMAT in file.attrs:
        check_format(int(file.attrs[_FORMAT]), file.attrs.get(_WRITTEN_BY))


def add_checksum(path: str | os.PathLike | io.BytesIO) -> None:
    """Writes the format of a `.weights.h5` file, and its checksum, into it."""
    with h5py.File(path, "r+") as file:
        file.attrs[_FORMAT], file.attrs[_WRITTEN_BY] = FORMAT, __version__
        file.attrs[_CHECKSUM] = np.bytes_(f"{_CHECKSUM}={'0' * 64}")
    with _content(path) as content:
        start, end = _HEX_DIGITS.search(content).span()
        digits = _sha256_without(content, start, end)
    with contextlib.nullcontext(path) if isinstance(path, io.BytesIO) else open(path, "r+b") as raw:
        raw.seek(start)
        raw.write(digits)


def add_checksum_to_keras_file(path: Path) -> None:
    """Adds a checksum to the weights in a `.keras` file; the zip format has them for the rest."""
    with zipfile.ZipFile(path) as archive:
        contents = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in contents.items():
            if info.filename == _WEIGHTS:
                weights = io.BytesIO(content)
                add_checksum(weights)
                content = weights.getvalue()
            archive.writestr(info, content)


def add_checksums_to_folder(folder: Path) -> None:
    """Writes the checksums of all files of a SavedModel into it."""
    lines = [f"{checksum}  {name}\n" for name, checksum in _checksums(folder).items()]
    (folder / _SUMS).parent.mkdir(exist_ok=True)
    (folder / _SUMS).write_text("".join(lines))


@contextlib.contextmanager
def _content(path: str | os.PathLike | io.BytesIO) -> Iterator[memoryview | mmap.mmap]:
    """Yields the bytes of a file without reading it into memory."""
    if isinstance(path, io.BytesIO):
        with path.getbuffer() as content:
            yield content
    else:
        read = mmap.ACCESS_READ
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=read) as content:
            yield content


def _has_checksum(content: bytes | mmap.mmap) -> bool:
    """Whether a weights file holds a checksum.

    Raises:
      ValueError: if it does not match.
    """
    found = _HEX_DIGITS.search(content)
    if found is None:
        return False
    if found.group() != _sha256_without(content, *found.span()):
        raise ValueError(
            "the weights are not those that were saved; the file was damaged, or changed by "
            "another program. Take an earlier copy."
        )
    return True


def _sha256_without(content: bytes | memoryview | mmap.mmap, start: int, end: int) -> bytes:
    """The checksum of a file's bytes, but for those from `start` to `end`: its own digits."""
    with memoryview(content) as view:
        sha = hashlib.sha256(view[:start])
        sha.update(view[end:])
    return sha.hexdigest().encode()


def _check_weights_file(path: Path) -> bool:
    with _content(path) as content:
        if _has_checksum(content):
            return True
    with h5py.File(path) as file:  # which fails unless it is a complete HDF5 file
        _check_datasets(file)
    return False


def _check_keras_file(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}  # checks their CRCs
    return _has_checksum(contents[_WEIGHTS])


def _check_folder(folder: Path) -> bool:
    if not (folder / _SUMS).is_file():
        return False
    lines = (folder / _SUMS).read_text().splitlines()
    expected = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    found = _checksums(folder)
    faults = [n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n)]
    if faults:
        raise ValueError(f"other content than was saved in {', '.join(faults)}")
    return True


def _checksums(folder: Path) -> dict[str, str]:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files.pop(_SUMS, None)
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in sorted(files.items())}


def _check_datasets(group: h5py.Group) -> None:
    """Checks all datasets below a group, before any is read.

    Raises:
      ValueError: if one is a link to data elsewhere, or larger than what is stored of it.
    """
    for name in group:
        is_link = not isinstance(group.get(name, getlink=True), h5py.HardLink)
        item = None if is_link else group[name]
        is_data = isinstance(item, h5py.Dataset)
        if is_link or (is_data and (item.external or item.is_virtual)):
            raise ValueError(f"{name} in the weights file is a link to data elsewhere: not read")
        if is_data and item.chunks is None and item.nbytes > item.id.get_storage_size():
            raise ValueError(f"{name} in the weights file claims to be larger than what is stored")
        if isinstance(item, h5py.Group):
            _check_datasets(item)
