"""The history of `FlowHealth` as a picture."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

History = list[dict[str, Any]]

_RED, _BLUE = "#c1121f", "#457b9d"
_MAX_NAMED = 16  # layers in a legend


class _Panel(NamedTuple):
    title: str
    measures: tuple[str, ...]
    limit: str
    scale: str


_PANELS = (
    _Panel("round-trip error, relative", ("round_trip",), "round_trip", "log"),
    _Panel("condition number", ("condition",), "condition", "log"),
    _Panel("share of scales that are saturated", ("saturation",), "saturation", "linear"),
    _Panel(
        "log-det in nats per entry, min and max",
        ("log_det_min", "log_det_max"),
        "log_det",
        "symlog",
    ),
    _Panel("examples of the probe that are not finite", ("not_finite",), "not_finite", "linear"),
)


def draw(history: History, limits: dict[str, Any], path: str | os.PathLike) -> None:
    """Draws the records of `FlowHealth.history`.

    Args:
      history: the records.
      limits: of each quantity, None for no limit.
      path: where to write the picture.

    Raises:
      ImportError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib: pip install ".[examples]", or pip install matplotlib.'
        ) from error
    measured = {m for record in history for layer in record["layers"] for m in layer}
    panels = [p for p in _PANELS if measured & set(p.measures)]
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = list(figure.subplots(2, 3).flat)
    layers = list(dict.fromkeys((la["layer"], la["type"]) for r in history for la in r["layers"]))
    colours = _colours(len(layers))
    for axis, panel in zip(axes, panels, strict=False):
        _draw_layers(axis, panel, history, [name for name, _ in layers], colours)
        _draw_limit(axis, limits[panel.limit], both_signs=panel.limit == "log_det")
        if panel.limit == "not_finite":
            _count_from_zero(axis)
        elif panel.limit == "saturation":
            axis.set_ylim(-0.03, 1.03)
        _finish(axis, panel.title, history)
    counts = axes[len(panels)]
    counts.bar(range(len(history)), [r["skipped"] for r in history], color=_BLUE)
    _draw_limit(counts, limits["skipped"])
    _finish(counts, "batches skipped since the previous check", history)
    _count_from_zero(counts)
    for axis in axes[len(panels) + 1 :]:
        axis.axis("off")
    _name_layers(figure, axes, layers, colours)
    faults = [f"epoch {r['epoch']}: {r['fault']}" for r in history if r["fault"]]
    title = f"{len(history)} checks, {len(faults)} failed"
    first = textwrap.fill(f"first, {faults[0]}", 120) if faults else "the flow is healthy"
    figure.suptitle(f"{title}; {first}", color=_RED if faults else "black", fontsize=11)
    figure.savefig(path, dpi=110)


def _colours(count: int) -> list:
    """Colours of the layers, from data (dark) to latent (bright)."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.92 * i / max(count - 1, 1)) for i in range(count)]


def _draw_layers(
    axis: Any, panel: _Panel, history: History, names: Sequence[str], colours: Sequence[Any]
) -> None:
    checks = [{layer["layer"]: layer for layer in record["layers"]} for record in history]
    axis.set_yscale(panel.scale, **({"linthresh": 0.1} if panel.scale == "symlog" else {}))
    found = [la.get(m) for check in checks for la in check.values() for m in panel.measures]
    lowest = 0.5 * min((v for v in found if v is not None and v > 0), default=1.0)
    for name, colour in zip(names, colours, strict=True):
        for measure in panel.measures:
            values = [check.get(name, {}).get(measure, math.nan) for check in checks]  # NaN: a gap
            finite = [math.nan if v is None else v for v in values]
            if panel.scale == "log":  # which cannot show 0
                finite = [max(v, lowest) if v == v else v for v in finite]
            axis.plot(finite, ".-", color=colour, lw=1.2)
            for i in (i for i, v in enumerate(values) if v is None):  # not finite: at the top
                top = axis.get_xaxis_transform()
                axis.plot(i, 0.97, "x", color=_RED, transform=top, clip_on=False)


def _draw_limit(axis: Any, limit: float | None, both_signs: bool = False) -> None:
    if limit is None:
        return
    for value in (limit, -limit) if both_signs else (limit,):
        axis.axhline(value, color="black", linestyle=":", lw=1.2)
    axis.annotate(
        f"limit {limit:g}",
        (1.0, limit),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )


def _count_from_zero(axis: Any) -> None:
    """Gives the axis whole numbers, from 0."""
    axis.set_ylim(-0.05, max(1.0, axis.get_ylim()[1]))
    axis.yaxis.get_major_locator().set_params(integer=True)


def _finish(axis: Any, title: str, history: History) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("check (0 is before training)", fontsize=9)
    axis.set_xlim(-0.5, len(history) - 0.5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.spines[["top", "right"]].set_visible(False)
    for i, record in enumerate(history):
        if record["fault"]:
            axis.axvline(i, color=_RED, alpha=0.25, lw=4, zorder=0)


def _name_layers(
    figure: Any, axes: Sequence[Any], layers: Sequence[tuple[str, str]], colours: Sequence[Any]
) -> None:
    """A legend, or for deep flows a scale of colours from data to latent."""
    from matplotlib import cm, colors, lines

    if len(layers) <= _MAX_NAMED:
        handles = [lines.Line2D([], [], color=c, marker=".") for c in colours]
        names = [f"{name} {kind}" for name, kind in layers]
        figure.legend(
            handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
        return
    scale = cm.ScalarMappable(colors.Normalize(0, len(layers) - 1), colors.ListedColormap(colours))
    label = f"layer, from data (0) to latent ({len(layers) - 1})"
    figure.colorbar(scale, ax=axes, label=label, shrink=0.6, location="right")
