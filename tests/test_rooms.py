"""Imports run one way, and the picture of the rooms shows the code as it is."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("rooms", DOCS / "rooms.py")
rooms = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rooms)

FOUND = rooms.rooms()
DEPTHS = {room: depth for depth, row in enumerate(rooms.LAYERS) for room in row}


def test_every_file_belongs_to_a_room():
    assert set(FOUND) == set(DEPTHS)
    files = list(rooms.PACKAGE.rglob("*.py"))
    assert sum(about["files"] for about in FOUND.values()) == len(files) - 1  # __init__.py


def test_imports_run_one_way():
    upwards = {(a, b) for a, b in rooms.edges(FOUND) if DEPTHS[a] >= DEPTHS[b]}
    assert upwards == set(rooms.DEFERRED)


def test_the_picture_shows_the_code():
    """After a change: `python docs/rooms.py`."""
    drawn = rooms.drawn_data()
    assert rooms.edges(drawn) == rooms.edges(FOUND)
    for room, about in FOUND.items():
        assert drawn[room]["files"] == about["files"]
        assert abs(drawn[room]["lines"] - about["lines"]) <= 0.1 * about["lines"] + 20


def test_all_imports_are_found(tmp_path):
    """Those in functions, of a whole room and of a file too."""
    package = tmp_path / "tfp_flows"
    sources = {
        "__init__.py": "",
        "version.py": "",
        "a/x.py": "from tfp_flows import b\nimport tfp_flows.c.y\nimport numpy",
        "b/x.py": "def f():\n    from tfp_flows.c.y import z",
        "c/y.py": "from tfp_flows.version import v",
    }
    for name, source in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    found = rooms.rooms(package)
    assert rooms.edges(found) == {("a", "b"), ("a", "c"), ("b", "c"), ("c", "base")}
    assert found["a"] == {"files": 1, "lines": 3, "imports": ["b", "c"]}
    assert rooms.implied(rooms.edges(found)) == {("a", "c")}
