"""Draws the rooms of the package and the imports between them: `python docs/rooms.py`.

Writes `docs/images/rooms.png`, which holds its data as a text chunk, so that
`tests/test_rooms.py` can compare it with the code, and prints them as a table.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "tfp_flows"
PICTURE = Path(__file__).parent / "images" / "rooms.png"

# A room imports only from rows below its own. `base` is the files that are in no folder; the
# package's `__init__.py`, which imports all public names, is left out.
# A column is a place from left to right.
LAYERS = [
    {"model": 0},
    {"callbacks": 0},
    {"flows": -1, "saving": 0},
    {"distributions": 0},
    {"bijectors": 0},
    {"transformers": 1},
    {"conditioners": -1, "solvers": 0, "checking": 1},
    {"core": 0},
    {"base": 0},
]
# Imports within a function that run upwards, each with its reason.
DEFERRED = {("core", "saving"): "pickles hold what a .keras file does"}


def rooms(package: Path = PACKAGE) -> dict[str, dict]:
    """What is in each room: `{room: {"files": int, "lines": int, "imports": [room, ...]}}`."""
    found: dict[str, dict] = {}
    for path in sorted(package.rglob("*.py")):
        if path == package / "__init__.py":
            continue
        room = _room_of(path.relative_to(package).parts)
        about = found.setdefault(room, {"files": 0, "lines": 0, "imports": set()})
        source = path.read_text()
        about["files"] += 1
        about["lines"] += len(source.splitlines())
        about["imports"] |= _imported(source, package) - {room}
    for about in found.values():
        about["imports"] = sorted(about["imports"])
    return found


def _room_of(parts: tuple[str, ...]) -> str:
    return parts[0] if len(parts) > 1 else "base"


def _imported(source: str, package: Path) -> set[str]:
    """The rooms that a file imports, those of imports within functions included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    inner = {p[1] for p in parts if p[0] == package.name and len(p) > 1}
    return {"base" if (package / f"{name}.py").is_file() else name for name in inner}


def edges(found: dict[str, dict]) -> set[tuple[str, str]]:
    """`(importing room, imported room)`."""
    return {(room, other) for room, about in found.items() for other in about["imports"]}


def drawn_data(picture: Path = PICTURE) -> dict[str, dict]:
    """What `rooms` found when the picture was drawn."""
    content, key = picture.read_bytes(), b"tEXtDescription\0"
    start = content.index(key)
    size = int.from_bytes(content[start - 4 : start], "big") + len(b"tEXt")
    return json.loads(content[start + len(key) : start + size])


def draw(found: dict[str, dict], picture: Path = PICTURE) -> None:
    """Writes the picture, without the imports that follow from others."""
    import matplotlib.pyplot as plt

    width, height, step = 2.7, 0.66, 1.0
    places = {
        room: (3.4 * column, -step * depth)
        for depth, row in enumerate(LAYERS)
        for room, column in row.items()
    }
    figure, axes = plt.subplots(figsize=(10, 7.2))
    for room, (x, y) in places.items():
        about, corner = found[room], (x - width / 2, y - height / 2)
        axes.add_patch(plt.Rectangle(corner, width, height, fc="#eef3fa", ec="#31506e", zorder=2))
        axes.text(x, y + 0.13, room, ha="center", va="center", weight="bold", size=13)
        counts = f"{about['files']} files, {about['lines']:,} lines"
        axes.text(x, y - 0.15, counts, ha="center", va="center", size=10, color="#444444")
    for room, other in sorted(edges(found) - implied(edges(found))):
        (x, y), (x2, y2) = places[room], places[other]
        aside = (x2 - x) / 6
        start, end = (x + aside, y - height / 2), (x2 - aside, y2 + height / 2)
        arrow = {"arrowstyle": "-|>", "color": "#31506e", "linewidth": 1.6, "mutation_scale": 16}
        if (room, other) in DEFERRED:
            start, end = (x + width / 2, y), (x2 + width / 2, y2)
            bend = {"linestyle": "--", "connectionstyle": "arc3,rad=0.25"}
            arrow |= {"color": "#b5443b", "linewidth": 1.0, **bend}
        axes.annotate("", end, start, arrowprops=arrow, zorder=1)
    axes.set_xlim(-4.9, 4.9)
    axes.set_ylim(-step * (len(LAYERS) - 1) - 0.4, 0.4)
    axes.axis("off")
    about = {"Description": json.dumps(found)}
    figure.savefig(picture, dpi=120, bbox_inches="tight", pad_inches=0.05, metadata=about)
    plt.close(figure)


def implied(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Imports that also follow from others: `a -> c` where `a -> b -> ... -> c`."""
    reached = {(a, b) for a, b in pairs if (a, b) not in DEFERRED}
    direct = set(reached)
    while more := {(a, d) for a, b in reached for c, d in direct if b == c} - reached:
        reached |= more
    return {(a, c) for a, c in pairs for b in {b for x, b in direct if x == a} if (b, c) in reached}


def table(found: dict[str, dict]) -> str:
    """The rooms as a Markdown table, from the top."""
    lines = ["| room | files | lines | imports |", "|---|---|---|---|"]
    for room in (room for row in LAYERS for room in row):
        about = found[room]
        imports = ", ".join(about["imports"])
        lines.append(f"| `{room}` | {about['files']} | {about['lines']} | {imports} |")
    return "\n".join(lines)


if __name__ == "__main__":
    draw(rooms())
    print(table(rooms()))
