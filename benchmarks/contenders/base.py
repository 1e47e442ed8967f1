"""What a contender is: one library's way to do a workload."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from benchmarks.workloads import Workload


class Contender(ABC):
    """Builds its model and its optimizer when made.

    Every operation runs `n` times, waits until all of it is done, and returns one number of the
    last result, which must be finite.
    """

    device = "cpu"

    def __init__(self, workload: Workload, **options: Any):
        self.workload = workload
        self.build(**options)

    @abstractmethod
    def build(self, **options: Any) -> None:
        """Makes the model and the optimizer."""

    @abstractmethod
    def parameters(self) -> int:
        """How many numbers are trained."""

    @abstractmethod
    def train(self, n: int) -> float:
        """Loss, gradient and Adam update on the one batch; returns the loss."""

    @abstractmethod
    def log_prob(self, n: int) -> float:
        """The log-probability of the batch; returns the first one."""

    @abstractmethod
    def sample(self, n: int) -> float:
        """As many samples as the batch has; returns the first number."""

    def operations(self) -> dict[str, Callable[[int], float]]:
        """What is timed."""
        return {"train": self.train, "log_prob": self.log_prob, "sample": self.sample}

    def device_memory(self, reset: bool = False) -> tuple[int, int] | None:
        """Bytes in use on the accelerator, and their peak (from now on, if `reset`).

        None on a CPU, whose memory is the process's own.
        """
        return None
