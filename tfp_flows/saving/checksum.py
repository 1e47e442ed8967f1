"""Checksums and format numbers, so that a damaged or foreign file is an error."""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from tfp_flows.core import private
from tfp_flows.saving.atomic import local_path
from tfp_flows.version import __version__

FORMAT = 2  # of descriptions and of the names of weights

_OLD = {
    1: "names weights by private attributes, and leaves arguments at their defaults out",
}


def check_format(found: Any, written_by: str | None) -> None:
    """Refuses a file of another format than this version reads and writes.

    Args:
      found: the number in the file.
      written_by: the version of tfp_flows that wrote it, if the file says so.

    Raises:
      ValueError: it is another format; the message says which, and what to do.
    """
    if found == FORMAT:
        return
    file = f"The file was written by tfp_flows {written_by or '(unknown)'} in format {found}"
    here = f"this is tfp_flows {__version__}, which reads format {FORMAT}"
    if found in _OLD:
        raise ValueError(
            f"{file}, which {_OLD[found]}; {here}. Load it with the version that wrote it, and "
            "carry the values over by hand."
        )
    raise ValueError(f"{file}; {here}. Load it with that version or a newer one.")


_ATTRIBUTE = "tfp_flows_sha256"  # of an HDF5 file
_SEAL = b"\nall before: tfp_flows_sha256 "  # at its end, with the digest of its bytes
_FORMAT = "tfp_flows_format"  # of an HDF5 file
_WRITTEN_BY = "tfp_flows"  # of an HDF5 file: the version of the package
_CHANGED = (
    "the weights are not those that were saved; the file was damaged, or changed by another "
    "program. Take an earlier copy."
)
_WEIGHTS = "model.weights.h5"  # in a .keras file
_SUMS = "assets.extra/sha256sums"  # in a SavedModel, for `sha256sum --check` too


def verify(path: str | os.PathLike) -> None:
    """Checks a saved flow against the digest that was saved with it, without loading it.

    Loading a `.keras` or `.weights.h5` file checks by itself. A SavedModel is loaded by TensorFlow,
    which checks its variables but not its graph: verify it where it arrives.

    Args:
      path: a `.keras` or `.weights.h5` file, or the folder of a SavedModel.

    Raises:
      FileNotFoundError: there is nothing.
      ValueError: it is damaged, or it holds no digest, as files of other makers; the path is not
        local.

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
      ValueError: ...flow.weights.h5 is damaged, or no file of this kind: ...
    """
    if not validate_checksum(path):
        raise ValueError(f"{path} holds no digest to verify: it was not written by tfp_flows.")


def validate_checksum(path: str | os.PathLike) -> bool:
    """As `verify`, but lets pass what holds no digest; returns whether there was one."""
    path = local_path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    if path.is_dir():
        check = _check_folder
    else:
        check = _check_keras_file if path.suffix == ".keras" else _check_weights_file
    try:
        return check(path)
    except Exception as error:  # whatever the readers of broken files come up with
        raise ValueError(f"{path} is damaged, or no file of this kind: {error}") from error


def add_checksum(path: str | os.PathLike | io.BytesIO) -> None:
    """Writes the format of a `.weights.h5` file, and the digests of its content, into it."""
    with h5py.File(path, "r+") as file:
        file.attrs[_FORMAT], file.attrs[_WRITTEN_BY] = FORMAT, __version__
        file.attrs[_ATTRIBUTE] = _digest(file)
    with contextlib.nullcontext(path) if isinstance(path, io.BytesIO) else open(path, "r+b") as raw:
        sha = hashlib.sha256()
        raw.seek(0)
        while block := raw.read(2**20):
            sha.update(block)
        raw.write(_seal(sha))  # HDF5 does not look at what comes after its own end


def add_checksum_to_keras_file(path: Path) -> None:
    """Signs the weights in a `.keras` file; the zip format has checksums for the rest."""
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
    """Writes the digests of all files of a SavedModel into it."""
    lines = [f"{digest}  {name}\n" for name, digest in _digests(folder).items()]
    (folder / _SUMS).parent.mkdir(exist_ok=True)
    (folder / _SUMS).write_text("".join(lines))


def check_store(store: Any) -> None:
    """Checks the HDF5 file that Keras loads weights from.

    Args:
      store: what Keras hands to `load_own_variables`.

    Raises:
      ValueError: the file is damaged, or leads to other files, or is of another format. One
        without a digest, of another maker, is let pass.
    """
    part, file = private.hdf5_of(store)  # the part is read as it is needed
    if part is not None:
        part.seek(0)
        part.read()  # to its end, where the zip format has its checksum
    if file is not None and _check_weights(file):
        check_format(int(file.attrs.get(_FORMAT, 1)), file.attrs.get(_WRITTEN_BY))


def _check_weights_file(path: Path | io.BytesIO) -> bool:
    # Bytes first: from damaged ones HDF5 may not come back.
    if isinstance(path, io.BytesIO):
        _check_seal(path.getvalue())
    else:
        read = mmap.ACCESS_READ
        with open(path, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=read) as content:
            _check_seal(content)
    with h5py.File(path) as file:
        return _check_weights(file)


def _seal(sha: Any) -> bytes:
    return _SEAL + sha.hexdigest().encode()


def _check_seal(content: bytes | mmap.mmap) -> None:
    """Raises ValueError unless a weights file ends with the digest of its bytes, or has none."""
    with memoryview(content) as view:
        end = max(len(view) - len(_seal(hashlib.sha256())), 0)
        is_sealed = view[end:] == _seal(hashlib.sha256(view[:end]))
    if not is_sealed and content.find(_ATTRIBUTE.encode()) >= 0:  # there was a seal
        raise ValueError(_CHANGED)


def _check_keras_file(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}  # checks their CRCs
    return _check_weights_file(io.BytesIO(contents[_WEIGHTS]))


def _check_folder(folder: Path) -> bool:
    if not (folder / _SUMS).is_file():
        return False
    lines = (folder / _SUMS).read_text().splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _digests(folder)
    faults = [n for n in sorted({*expected, *found}) if expected.get(n) != found.get(n)]
    if faults:
        raise ValueError(f"other content than was saved in {', '.join(faults)}")
    return True


def _check_weights(file: h5py.File) -> bool:
    """Returns whether there was a digest to check."""
    if _ATTRIBUTE not in file.attrs:
        for _ in _members(file):  # refuses links
            pass
        return False
    if file.attrs[_ATTRIBUTE] != _digest(file):
        raise ValueError(_CHANGED)
    return True


def _digests(folder: Path) -> dict[str, str]:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files.pop(_SUMS, None)
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in sorted(files.items())}


def _digest(file: h5py.File) -> str:
    """Of the names, attributes, types, shapes and values in all groups."""
    sha = hashlib.sha256()
    for item in _members(file):
        attributes = sorted(f"{key}={value}" for key, value in item.attrs.items())
        sha.update(repr((item.name, attributes)).encode())
        if isinstance(item, h5py.Dataset):
            if item.nbytes > item.id.get_storage_size():  # before memory is asked for
                raise ValueError(f"{item.name} claims to be larger than what is stored")
            sha.update(repr((item.dtype.str, item.shape)).encode())
            sha.update(item[()].tobytes())
    return sha.hexdigest()


def _members(group: h5py.Group) -> Iterator[h5py.Group | h5py.Dataset]:
    """All groups and datasets below a group, in a stable order; refuses what leads elsewhere."""
    for name in sorted(group):
        is_link = not isinstance(group.get(name, getlink=True), h5py.HardLink)
        item = None if is_link else group[name]
        if is_link or (isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)):
            raise ValueError(f"{name} in the weights file is a link to data elsewhere: not read")
        yield item
        if isinstance(item, h5py.Group):
            yield from _members(item)
