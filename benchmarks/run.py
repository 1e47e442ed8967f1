"""Measures everybody on the same work: `python -m benchmarks.run --help`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.process import ContenderProcess, python_of
from benchmarks.registry import contenders
from benchmarks.rounds import Plan, run
from benchmarks.workloads import WORKLOADS, get_workload

DEPTHS = (4, 16, 32)  # of W2, beside its own


def main() -> None:
    args = parse_arguments()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    results = {"machine": describe_machine(), "groups": []}
    for plan in plans(args):
        print(plan.describe(), flush=True)
        cpus = pinned(plan.cores)
        if len(cpus) < plan.cores:
            print(f"  left out: this process has {len(cpus)} core(s)")
            continue
        work = dict(workload=plan.workload, depth=plan.depth, tiny=plan.tiny)
        start = partial(start_process, folder=args.environments, cpus=cpus, work=work)
        entries = contenders(plan.workload, plan.sweep, args.contenders)
        measured = run(plan, entries, start, say)
        depth = get_workload(**work).layers
        group = {"workload": plan.workload, "depth": depth, "cores": plan.cores}
        group["sweep"] = plan.sweep
        results["groups"].append(group | {"contenders": measured})
        results["minutes"] = (time.perf_counter() - begin) / 60
        (output / "results.json").write_text(json.dumps(results, indent=1))
    report.write(results, output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--contenders", help="ours, and those with one of these words, by commas")
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="0: all, not pinned")
    parser.add_argument("--depths", nargs="*", type=int, default=DEPTHS, help="of W2, beside 8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that all runs")
    parser.add_argument("--output", default="build/benchmarks")
    parser.add_argument(
        "--environments",
        default=".venv-bench",
        help="where those of the peers are: this path with -torch and -jax",
    )
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.depths = 1, 0.01, ()
    return args


def plans(args: argparse.Namespace) -> list[Plan]:
    """What to measure, in order."""
    common = dict(rounds=args.rounds, seconds=args.seconds, tiny=args.quick)
    every = [Plan(w, cores, **common) for cores in args.cores for w in args.workloads]
    if "W2" in args.workloads:
        common |= dict(rounds=min(args.rounds, 3), operations=("train",))
        every += [Plan("W2", args.cores[0], depth=depth, **common) for depth in args.depths]
    return every


def pinned(cores: int) -> list[int]:
    """The last cores of this process; none where nothing is to be pinned."""
    if not cores:
        return []
    return sorted(os.sched_getaffinity(0))[-cores:]


def start_process(entry, folder: str, cpus: list[int], work: dict) -> ContenderProcess:
    return ContenderProcess(entry, python_of(entry.environment, folder), cpus, **work)


def describe_machine() -> dict:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
