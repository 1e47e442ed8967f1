"""What training adds to the memory of a model that is built."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

MIB = 2**20


class Peak:
    """The peak of memory above what was in use when this was made.

    The accelerator's memory where there is one, else the process's resident memory.
    """

    def __init__(self, contender):
        self._contender = contender
        self._linux = sys.platform.startswith("linux")
        gc.collect()
        if contender.device_memory(reset=True):
            self._before, _ = contender.device_memory()
        elif self._linux:
            ctypes.CDLL(None).malloc_trim(0)  # or freed blocks, used again, would hide the peak
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
            self._before = _resident("VmRSS")

    def added(self) -> float | None:
        """In MiB; None where it cannot be read."""
        if self._contender.device_memory():
            return (self._contender.device_memory()[1] - self._before) / MIB
        return (_resident("VmHWM") - self._before) / MIB if self._linux else None


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024
