"""The history of `FlowHealth` as a picture."""

from __future__ import annotations

import os
import textwrap
from typing import Any, NamedTuple

_RED, _BLUE = "#c1121f", "#457b9d"
_MOST_NAMED = 16  # layers that a legend has room for


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
        "log-det in nats per entry, least and largest",
        ("log_det_min", "log_det_max"),
        "log_det",
        "symlog",
    ),
    _Panel("examples of the probe that are not finite", ("not_finite",), "not_finite", "linear"),
)


def draw(history: list[dict[str, Any]], limits: dict[str, Any], path: str | os.PathLike) -> None:
    """Draws the records of `FlowHealth.history`; see `FlowHealth.plot`."""
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
            _count(axis)
        elif panel.limit == "saturation":
            axis.set_ylim(-0.03, 1.03)
        _finish(axis, panel.title, history)
    counts = axes[len(panels)]
    counts.bar(range(len(history)), [r["left_out"] for r in history], color=_BLUE)
    _draw_limit(counts, limits["left_out"])
    _finish(counts, "batches left out since the look before", history)
    _count(counts)
    for axis in axes[len(panels) + 1 :]:
        axis.axis("off")
    _name_layers(figure, axes, layers, colours)
    faults = [f"epoch {r['epoch']}: {r['fault']}" for r in history if r["fault"]]
    title = f"{len(history)} looks, {len(faults)} with a fault"
    first = textwrap.fill(f"first, {faults[0]}", 120) if faults else "all is well"
    figure.suptitle(f"{title}; {first}", color=_RED if faults else "black", fontsize=11)
    figure.savefig(path, dpi=110)


def _colours(count: int) -> list:
    """From data (dark) to latent (bright)."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.92 * i / max(count - 1, 1)) for i in range(count)]


def _draw_layers(axis, panel: _Panel, history, names: list[str], colours: list) -> None:
    looks = [{layer["layer"]: layer for layer in record["layers"]} for record in history]
    axis.set_yscale(panel.scale, **({"linthresh": 0.1} if panel.scale == "symlog" else {}))
    found = [la.get(m) for look in looks for la in look.values() for m in panel.measures]
    least = min((v for v in found if v is not None and v > 0), default=1.0)
    for name, colour in zip(names, colours, strict=True):
        for measure in panel.measures:
            points = [
                (i, look[name][measure])
                for i, look in enumerate(looks)
                if measure in look.get(name, {})
            ]
            # A logarithm has no place for 0.
            known = [
                (i, max(v, least / 2) if panel.scale == "log" else v)
                for i, v in points
                if v is not None
            ]
            axis.plot(*zip(*known, strict=True) if known else ((), ()), ".-", color=colour, lw=1.2)
            for i in (i for i, v in points if v is None):  # not finite: at the top
                at_top = axis.get_xaxis_transform()
                axis.plot(i, 0.97, "x", color=_RED, transform=at_top, clip_on=False)


def _draw_limit(axis, limit: float | None, both_signs: bool = False) -> None:
    if limit is None:
        return
    for place in (limit, -limit) if both_signs else (limit,):
        axis.axhline(place, color="black", linestyle=":", lw=1.2)
    axis.annotate(
        f"limit {limit:g}",
        (1.0, limit),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )


def _count(axis) -> None:
    """An axis of whole numbers from 0."""
    axis.set_ylim(-0.05, max(1.0, axis.get_ylim()[1]))
    axis.yaxis.get_major_locator().set_params(integer=True)


def _finish(axis, title: str, history) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("look (0 is before training)", fontsize=9)
    axis.set_xlim(-0.5, len(history) - 0.5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.spines[["top", "right"]].set_visible(False)
    for i, record in enumerate(history):
        if record["fault"]:
            axis.axvline(i, color=_RED, alpha=0.25, lw=4, zorder=0)


def _name_layers(figure, axes, layers: list[tuple[str, str]], colours: list) -> None:
    """A legend, or for deep flows a scale of colours from data to latent."""
    from matplotlib import cm, colors, lines

    if len(layers) <= _MOST_NAMED:
        handles = [lines.Line2D([], [], color=c, marker=".") for c in colours]
        names = [f"{name} {kind}" for name, kind in layers]
        figure.legend(
            handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
        return
    scale = cm.ScalarMappable(colors.Normalize(0, len(layers) - 1), colors.ListedColormap(colours))
    label = f"layer, from data (0) to latent ({len(layers) - 1})"
    figure.colorbar(scale, ax=axes, label=label, shrink=0.6, location="right")
