"""The number of the file format, which a file of another one is refused by."""

from __future__ import annotations

from typing import Any

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
