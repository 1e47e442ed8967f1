"""Runs in a contender's own process: builds it, then times what standard input asks for.

    python -m benchmarks.worker '{"entry": "zuko", "workload": "W1", "cpus": [1], ...}'

Speaks JSON, one object a line, on the pipe that was standard output.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
import traceback
import warnings


def main() -> None:
    # Libraries may print; only this file may write to the driver.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def say(message: dict) -> None:
        print(json.dumps(message), file=channel, flush=True)

    try:
        contender, report = start(**json.loads(sys.argv[1]))
    except Exception as error:
        say(_reason(error))
        sys.exit(1)
    say(report)
    for line in sys.stdin:
        try:
            say(measure(contender, **json.loads(line)))
        except Exception as error:
            say(_reason(error))


def start(entry: str, workload: str, depth: int | None, tiny: bool, cpus: list[int]):
    """Makes the contender and trains for one step; returns it, and what that took."""
    if cpus:
        os.sched_setaffinity(0, cpus)  # before any library counts the cores
    from benchmarks.memory import Peak
    from benchmarks.registry import ENTRIES
    from benchmarks.workloads import get_workload

    module, name = ENTRIES[entry].classes[workload].split(":")
    make = getattr(importlib.import_module(module), name)
    work = get_workload(workload, depth, tiny)
    begin = time.perf_counter()
    contender = make(work, **ENTRIES[entry].options)
    build = time.perf_counter() - begin
    peak = Peak(contender)
    begin = time.perf_counter()
    contender.train(1)
    first_step = time.perf_counter() - begin
    contender.train(2)
    return contender, {
        "first_step_s": build + first_step,
        "step_memory_mb": peak.added(),
        "parameters": int(contender.parameters()),
        "device": contender.device,
        "offered": list(contender.operations()),
    }


def measure(contender, operation: str, n: int) -> dict:
    """Runs an operation `n` times; milliseconds of the clock and of all cores for each."""
    run = contender.operations()[operation]
    wall, cpu = time.perf_counter(), time.process_time()
    value = run(n)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not math.isfinite(value):
        raise ArithmeticError(f"{operation} returned {value}")
    return {"wall_ms": 1e3 * wall / n, "cpu_ms": 1e3 * cpu / n, "value": value}


def _reason(error: Exception) -> dict:
    traceback.print_exc()
    first_line = (str(error).strip().splitlines() or [""])[0]
    return {"error": f"{type(error).__name__}: {first_line[:200]}"}


if __name__ == "__main__":
    main()
