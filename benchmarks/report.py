"""Writes what was measured as Markdown, and on the screen: `python -m benchmarks.report FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from benchmarks import plot
from benchmarks.figures import Group, Results
from benchmarks.registry import ENTRIES, OURS
from benchmarks.targets import ALL, checks
from benchmarks.workloads import WORKLOADS

NOTES = """\
- One process for each contender, started one after the other; then all are measured in turns, and
  a figure is the median over the rounds. In brackets: how many times our time that is, the median
  of the rounds' ratios. Below 1, the other one is faster.
- *Step*: loss, gradient and Adam update on one fixed batch in the library's natural loop; *CPU* is
  the time of all cores together for it. `sample` draws as many as the batch has.
- *First step*: build, trace or compile, and the first training step, in a fresh process, without
  the imports. *Memory*: what three training steps, the first of them, add at their peak to the
  model as built: resident memory, with what tracing and compiling take, or the accelerator's.
- *Parameters* shows that the networks are the same. What differs lies outside of them: FrEIA's
  1x1 convolutions are fixed, flowjax and distrax train the slopes at the splines' ends, nflows
  has a bias in its 1x1 convolutions, and ours and normflows hold both triangles as squares.
- Hand-written TensorFlow is a reference, no peer: code for one architecture and no other.
"""


def write(results: dict, output: Path) -> None:
    """Writes `report.md` and the figure beside the results, and prints the report."""
    measured = Results(results)
    plot.draw(measured, output / "benchmarks.png")
    text = to_markdown(measured)
    (output / "report.md").write_text(text)
    print(f"\n{text}\nWritten: {output}/results.json, report.md, benchmarks.png")


def to_markdown(results: Results) -> str:
    machine = results.machine
    parts = [
        "# Benchmarks",
        f"{machine['processor']}, {machine['cores']} cores; {results.minutes:.0f} minutes of "
        "`make bench`.",
        "![Times, memory and first steps](benchmarks.png)",
        NOTES.rstrip(),
    ]
    for workload in WORKLOADS.values():
        for group in results.of(workload.name):
            cores = f"{group.cores or 'all'} core{'s' * (group.cores != 1)}"
            parts += [f"## {workload.name}: {workload.title}, {cores}", _table(group)]
            parts += _disturbance(group)
    if results.by_depth():
        parts += ["## W2 by depth", _depth_table(results.by_depth())]
    parts += ["## Targets", _targets(results)]
    return "\n\n".join(parts) + "\n"


def _table(group: Group) -> str:
    columns = ["", "parameters", "step, ms", "CPU, ms", "`log_prob`, ms", "`sample`, ms"]
    rows = [[*columns, "first step, s", "memory, MiB"]]
    for name, result in group.contenders.items():
        if "error" in result:
            rows.append([_label(name), f"failed: {result['error']}", *[""] * 6])
            continue
        times = [_time(group, name, operation) for operation in ALL]
        cpu = group.time(name, "train", "cpu_ms")
        once = [_number(group.value(name, k)) for k in ("first_step_s", "step_memory_mb")]
        count = f"{group.value(name, 'parameters'):,}"
        rows.append([_label(name), count, times[0], _number(cpu), *times[1:], *once])
    fit = group.time(OURS, "fit")
    if fit:
        cpu = group.time(OURS, "fit", "cpu_ms")
        ratio = group.ratio(OURS, OURS, "fit", "train")
        step = f"{_number(fit)} ({ratio:.2f})"
        rows.append([_label(f"{OURS}, `fit`"), "", step, _number(cpu), *[""] * 4])
    return _markdown(rows)


def _disturbance(group: Group) -> list[str]:
    """A warning where others took the one core on which nothing but a contender should run."""
    on_cpu = [n for n, result in group.contenders.items() if result.get("device") == "cpu"]
    pairs = [(group.time(n, "train"), group.time(n, "train", "cpu_ms")) for n in on_cpu]
    shares = [wall / cpu for wall, cpu in pairs if wall and cpu]
    if group.cores != 1 or not shares or median(shares) < 1.05:
        return []
    return [f"Disturbed: the clock ran {median(shares):.2f} times the contenders' own CPU time."]


def _time(group: Group, name: str, operation: str) -> str:
    figures = group.contenders[name]["operations"].get(operation, {})
    if "error" in figures:
        return f"failed: {figures['error']}"
    ratio = group.ratio(name, OURS, operation)
    return _number(group.time(name, operation)) + (f" ({ratio:.2f})" if ratio else "")


def _depth_table(depths: dict[int, Group]) -> str:
    columns = [f"{what} at {d}" for what in ("step, ms,", "MiB", "first, s,") for d in depths]
    rows = [["", *columns]]
    for name in next(iter(depths.values())).contenders:
        rows.append(
            [
                _label(name),
                *[_number(g.time(name, "train")) for g in depths.values()],
                *[_number(g.value(name, "step_memory_mb")) for g in depths.values()],
                *[_number(g.value(name, "first_step_s")) for g in depths.values()],
            ]
        )
    return _markdown(rows)


def _targets(results: Results) -> str:
    rows = [["target", "measured", "limit", ""]]
    for c in checks(results):
        value = "" if c.value is None else f"{c.value:.2f}{c.unit}"
        outcome = f"**{c.outcome}**" if c.outcome == "miss" else c.outcome
        rows.append([c.target, value, f"{c.limit:.2f}{c.unit}", outcome])
    return _markdown(rows)


def _label(name: str) -> str:
    ours = name.startswith(OURS)
    reference = name in ENTRIES and ENTRIES[name].role == "reference"
    return f"**{name}**" if ours else f"*{name}*" if reference else name


def _number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write(json.loads(path.read_text()), path.parent)
