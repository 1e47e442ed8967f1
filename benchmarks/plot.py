"""One figure of the whole comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from benchmarks.figures import Group, Results
from benchmarks.registry import ENTRIES, OURS
from benchmarks.targets import ALL
from benchmarks.workloads import WORKLOADS

COLOURS = {"train": "#1b4965", "log_prob": "#62b6cb", "sample": "#cae9ff"}
LINES = {"ours": "#d1495b", "reference": "#8d99ae", "peer": "#1b4965"}
MARKERS = "osD^vPX*"
SHADES = ("#0b3954", "#087e8b", "#5c6bc0", "#7cb518", "#9c6644", "#b79ced")  # of the peers


def draw(results: Results, path: Path) -> None:
    """Times against ours for each workload, and below what depth does to W2."""
    depths = results.by_depth()
    figure = plt.figure(figsize=(15, 10 if depths else 5.5), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=[1.1, 1]) if depths else [figure]
    groups = [results.of(w)[0] for w in WORKLOADS if results.of(w)]
    panels = rows[0].subplots(1, len(groups), squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        _bars(axes, group)
    panels[0].legend(loc="upper right", frameon=False)
    if depths:
        axes = rows[1].subplots(1, 3)
        _lines(
            axes[0],
            depths,
            "Memory that a step adds, MiB",
            lambda g, n: g.value(n, "step_memory_mb"),
        )
        _lines(axes[1], depths, "First training step, s", lambda g, n: g.value(n, "first_step_s"))
        _lines(axes[2], depths, "Training step, ms", lambda g, n: g.time(n, "train"))
        axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axes, group: Group) -> None:
    """Everybody's times over ours, the slowest step at the bottom."""
    names = [n for n in group.contenders if group.ratio(n, OURS, "train")]
    names.sort(key=lambda n: group.ratio(n, OURS, "train"))
    for i, operation in enumerate(ALL):
        ratios = [group.ratio(n, OURS, operation) or 0.0 for n in names]
        heights = [row + 0.27 * (i - 1) for row in range(len(names))]
        bars = axes.barh(heights, ratios, 0.25, color=COLOURS[operation], label=operation)
        axes.bar_label(bars, [f"{r:.2f}" if r else "" for r in ratios], padding=2, fontsize=7)
    axes.axvline(1.0, color=LINES["ours"], linewidth=1.2)
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        label.set_color(LINES[ENTRIES[label.get_text()].role])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    cores = f"{group.cores or 'all'} core{'s' * (group.cores != 1)}"
    title = WORKLOADS[group.workload].title
    axes.set_title(f"{title}, {cores}", loc="left", fontsize=11)
    axes.set_xlabel("times ours (less is faster)")
    axes.spines[["top", "right"]].set_visible(False)


def _lines(axes, depths: dict[int, Group], title: str, figure: Callable) -> None:
    """A figure against the steps in a level, both on logarithmic axes."""
    names = list(dict.fromkeys(n for g in depths.values() for n in g.contenders))
    for i, name in enumerate(names):
        values = {d: figure(g, name) for d, g in depths.items()}
        values = {d: v for d, v in values.items() if v}
        role = ENTRIES[name].role
        axes.plot(
            list(values),
            list(values.values()),
            color=SHADES[i % len(SHADES)] if role == "peer" else LINES[role],
            linewidth=2.2 if role == "ours" else 1.0,
            linestyle="--" if role == "reference" else "-",
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="steps in each of 3 levels")
    axes.set_xticks(list(depths), list(depths))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(f"Glow by depth: {title}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
