"""Measures several contenders in turns, so that a noisy minute is nobody's alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.process import ContenderError, ContenderProcess
from benchmarks.registry import Entry

FIT_TURNS = 6  # an epoch has a beginning; a turn of `fit` is so many times longer


@dataclass(frozen=True)
class Plan:
    """What is measured together: one workload, at one depth, on so many cores."""

    workload: str
    cores: int
    rounds: int
    seconds: float  # of a turn
    depth: int | None = None
    operations: tuple[str, ...] = ("train", "log_prob", "sample", "fit")
    tiny: bool = False
    timeout: float = 300.0

    @property
    def sweep(self) -> bool:
        """Whether this is one of several depths, and not the workload's own."""
        return self.depth is not None

    def describe(self) -> str:
        depth = "" if self.depth is None else f", {self.depth} steps a level"
        return f"{self.workload}{depth}, {self.cores or 'all'} core(s)"


def run(
    plan: Plan, entries: list[Entry], start: Callable[[Entry], ContenderProcess], say: Callable
) -> dict[str, dict]:
    """Starts everybody, one after the other, then goes round; returns results by name."""
    results: dict[str, dict] = {e.name: {"operations": {}} for e in entries}
    running: list[ContenderProcess] = []
    try:
        for entry in entries:
            begin = time.perf_counter()
            result = results[entry.name]
            try:
                process = start(entry)
                running.append(process)
                result |= process.ready(plan.timeout)
            except ContenderError as error:
                result["error"] = str(error)
                running = [p for p in running if p.entry is not entry or p.close()]
            else:
                _calibrate(process, plan, result)
            say(f"  {entry.name}: {_outcome(result)}, {time.perf_counter() - begin:.0f} s")
        for i in range(plan.rounds):
            for operation in plan.operations:
                for process in running[:: 1 if i % 2 == 0 else -1]:
                    figures = results[process.entry.name]["operations"].get(operation)
                    if figures and "error" not in figures:
                        _turn(process, operation, figures)
            say(f"  round {i + 1} of {plan.rounds}")
    finally:
        for process in running:
            process.close()
    return results


def _calibrate(process: ContenderProcess, plan: Plan, result: dict) -> None:
    """Compiles every operation, and finds out how often it fits into a turn."""
    for operation in [o for o in plan.operations if o in result["offered"]]:
        figures = {"wall_ms": [], "cpu_ms": []}
        try:
            process.ask(operation, 1, plan.timeout)
            if operation == "fit":
                figures["n"] = FIT_TURNS * result["operations"]["train"]["n"]
            else:
                milliseconds = process.ask(operation, 2)["wall_ms"]
                figures["n"] = max(2, math.ceil(1e3 * plan.seconds / milliseconds))
        except ContenderError as error:
            figures["error"] = str(error)
        result["operations"][operation] = figures


def _turn(process: ContenderProcess, operation: str, figures: dict) -> None:
    try:
        if operation != "fit":
            process.ask(operation, 1)  # the others have used the caches
        answer = process.ask(operation, figures["n"])
    except ContenderError as error:
        figures["error"] = str(error)
    else:
        figures["wall_ms"].append(answer["wall_ms"])
        figures["cpu_ms"].append(answer["cpu_ms"])


def _outcome(result: dict) -> str:
    operations = result["operations"].items()
    faults = [f"{name} {f['error']}" for name, f in operations if "error" in f]
    faults += [result["error"]] if "error" in result else []
    return "FAILED, " + "; ".join(faults) if faults else "ready"
