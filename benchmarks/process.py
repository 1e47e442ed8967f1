"""A contender's own process, as the driver sees it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from pathlib import Path

from benchmarks.registry import Entry

ROOT = Path(__file__).resolve().parents[1]


class ContenderError(RuntimeError):
    """A contender that cannot be installed, built or run; its message is the reason."""


class ContenderProcess:
    """Starts when made; idle, it waits for input and takes no time from the others."""

    def __init__(self, entry: Entry, python: str, cpus: list[int], **work):
        self.entry = entry
        if not Path(python).exists():
            raise ContenderError(f"environment is missing: no {python}")
        arguments = json.dumps({"entry": entry.name, "cpus": cpus, **work})
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", arguments],
            cwd=ROOT,
            env=_environment(cpus),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ready(self, timeout: float) -> dict:
        """Waits for the first training step, and returns what it took."""
        return self._answer(timeout)

    def ask(self, operation: str, n: int, timeout: float = 120.0) -> dict:
        """Has the operation run `n` times."""
        if self._process.poll() is not None:
            raise ContenderError("its process has ended")
        print(json.dumps({"operation": operation, "n": n}), file=self._process.stdin, flush=True)
        return self._answer(timeout)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self, timeout: float) -> dict:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                self.close()
                raise ContenderError(f"no answer in {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ContenderError(f"ended by itself, with status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer


def _environment(cpus: list[int]) -> dict[str, str]:
    """Threads as many as cores, and on a GPU no more memory than each needs."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if cpus:
        settings |= {"OMP_NUM_THREADS": str(len(cpus)), "MKL_NUM_THREADS": str(len(cpus))}
    return os.environ | settings


def python_of(environment: str, folder: str) -> str:
    """The interpreter of a virtual environment; this one's for "tf"."""
    return sys.executable if environment == "tf" else f"{folder}-{environment}/bin/python"
