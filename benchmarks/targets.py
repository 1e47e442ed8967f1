"""The targets that we set ourselves, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.figures import Group, Results
from benchmarks.registry import HAND, OURS, REVERSIBLE, TFP_XLA

ALL = ("train", "log_prob", "sample")


@dataclass(frozen=True)
class Check:
    """One figure and its limit; `value` is None where it was not measured."""

    target: str
    value: float | None
    limit: float
    unit: str = "x"

    @property
    def outcome(self) -> str:
        if self.value is None:
            return "not measured"
        return "pass" if self.value <= self.limit else "miss"


def checks(results: Results) -> list[Check]:
    """Every target for which its workload was run."""
    found = [c for g in results.of("W1") for c in _real_nvp(g)]
    found += [c for g in results.of("W2") for c in _glow(g)]
    found += [c for g in results.of("W3") for c in _spline(g)]
    depths = results.by_depth()
    if {4, 8, 32} <= set(depths):
        found += _depth(depths)
        found += _start(depths)
    return found


def _where(group: Group) -> str:
    return f"{group.workload}, {group.cores or 'all'} core{'s' * (group.cores != 1)}"


def _against(group: Group, other: str | None, operation: str, limit: float) -> Check:
    """Our time over that of another."""
    value = group.ratio(OURS, other, operation) if other else None
    return Check(f"{_where(group)}: {operation} against {other or 'any peer'}", value, limit)


def _real_nvp(group: Group) -> Iterator[Check]:
    for operation in ALL:
        yield _against(group, group.fastest(operation), operation, 1.0)
    yield _fit(group, 1.10)


def _glow(group: Group) -> Iterator[Check]:
    for operation in ALL:  # 1.2 times faster than every peer
        yield _against(group, group.fastest(operation), operation, 1 / 1.2)
    for operation in ALL:
        yield _against(group, HAND, operation, 1.05)
    yield _fit(group, 1.05)


def _spline(group: Group) -> Iterator[Check]:
    yield _against(group, "flowjax", "train", 1.0)
    for operation in ("log_prob", "sample"):
        yield _against(group, TFP_XLA, operation, 1.0)


def _fit(group: Group, limit: float) -> Check:
    value = group.ratio(OURS, OURS, "fit", "train")
    return Check(f"{_where(group)}: a step of `fit` against the bare step", value, limit)


def _depth(depths: dict[int, Group]) -> Iterator[Check]:
    deep = depths[32]

    def memory(group: Group, name: str | None) -> float | None:
        return group.value(name, "step_memory_mb") if name else None

    lean = deep.least(lambda name: memory(deep, name))
    ours = memory(deep, REVERSIBLE)
    yield Check(
        "Memory of a step, reversible, 32 steps a level against 8",
        _over(ours, memory(depths[8], REVERSIBLE)),
        1.5,
    )
    yield Check(
        f"Memory of a step at 32, reversible, against {lean}", _over(ours, memory(deep, lean)), 1.0
    )
    fastest = deep.fastest("train")
    for other, limit in ((OURS, 1.2), (fastest, 1.0)):
        value = deep.ratio(REVERSIBLE, other, "train") if other else None
        yield Check(f"Training step at 32, reversible, against {other}", value, limit)


def _start(depths: dict[int, Group]) -> Iterator[Check]:
    for name in (OURS, REVERSIBLE):
        first = {d: depths[d].value(name, "first_step_s") for d in (4, 32)}
        by_hand = depths[32].value(HAND, "first_step_s")
        label = f"First training step, {name}"
        yield Check(f"{label}, 32 steps a level against 4", _over(first[32], first[4]), 2.0)
        yield Check(f"{label}, at 32", first[32], 4.0, " s")
        yield Check(f"{label}, at 32 against {HAND}", _over(first[32], by_hand), 0.2)


def _over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None
