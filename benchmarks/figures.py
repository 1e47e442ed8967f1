"""Reads measured results: medians, ratios, and who is fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

from benchmarks.registry import ENTRIES


class Group:
    """What was measured together: one workload, at one depth, on so many cores."""

    def __init__(self, group: dict):
        self.workload, self.depth, self.cores = group["workload"], group["depth"], group["cores"]
        self.sweep = group["sweep"]  # over depths, where only training was measured
        self.contenders: dict[str, dict] = group["contenders"]

    def rounds(self, name: str, operation: str, key: str = "wall_ms") -> list[float]:
        """Milliseconds of every round; empty where it was not measured, or failed."""
        figures = self.contenders.get(name, {}).get("operations", {}).get(operation, {})
        return [] if "error" in figures else figures.get(key, [])

    def time(self, name: str, operation: str, key: str = "wall_ms") -> float | None:
        """The median over rounds."""
        rounds = self.rounds(name, operation, key)
        return median(rounds) if rounds else None

    def ratio(self, a: str, b: str, operation: str, of_b: str | None = None) -> float | None:
        """How many times the time of `b` that of `a` is: the median of the rounds' ratios."""
        above, below = self.rounds(a, operation), self.rounds(b, of_b or operation)
        if not above or not below:
            return None
        return median(x / y for x, y in zip(above, below, strict=True))

    def value(self, name: str, key: str) -> float | None:
        """What was measured once: `first_step_s`, `step_memory_mb`, `parameters`."""
        return self.contenders.get(name, {}).get(key)

    def peers(self) -> Iterable[str]:
        """The libraries in it, without us and without hand-written code."""
        return [n for n in self.contenders if n in ENTRIES and ENTRIES[n].role == "peer"]

    def least(self, figure: Callable[[str], float | None]) -> str | None:
        """The peer with the smallest figure."""
        found = {n: figure(n) for n in self.peers()}
        found = {n: f for n, f in found.items() if f is not None}
        return min(found, key=found.get) if found else None

    def fastest(self, operation: str) -> str | None:
        """The peer that takes the least time."""
        return self.least(lambda name: self.time(name, operation))


class Results:
    """All groups of a run."""

    def __init__(self, results: dict):
        self.machine = results["machine"]
        self.minutes = results["minutes"]
        self.groups = [Group(g) for g in results["groups"]]

    def of(self, workload: str) -> list[Group]:
        """Those in which everything was measured."""
        return [g for g in self.groups if g.workload == workload and not g.sweep]

    def by_depth(self) -> dict[int, Group]:
        """W2 at every depth, all on the same cores; empty without a sweep."""
        cores = {g.cores for g in self.groups if g.sweep}
        groups = [g for g in self.groups if g.workload == "W2" and g.cores in cores]
        return {g.depth: g for g in sorted(groups, key=lambda g: g.depth)}
