"""The examples of CONTRIBUTING pass the tests that a new bijector, transformer or flow must pass.

Each is a class or a function, and one line that adds it to a table of the tests. Runs under Keras
3 and tf_keras.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import test_contract
import test_families
import test_transformers
from cases import BIJECTORS, make
from small_flows import READY_MADE
from test_transformers import TRANSFORMERS

import tfp_flows as flows

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^## (A new \w+)\n(.*?)(?=^## )", TEXT, flags=re.MULTILINE | re.DOTALL))
TABLES = {"BIJECTORS": BIJECTORS, "TRANSFORMERS": TRANSFORMERS, "READY_MADE": READY_MADE}


@pytest.fixture(scope="module")
def added():
    """Runs the examples; returns what each adds to its table."""
    before = {name: dict(table) for name, table in TABLES.items()}
    namespace = {"partial": partial, **TABLES}
    for section in SECTIONS.values():
        code, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
        assert len(line.splitlines()) == 1
        exec(code, namespace)
        exec(line, namespace)
    new = {
        name: {k: table[k] for k in set(table) - set(before[name])}
        for name, table in TABLES.items()
    }
    yield new
    for name, table in TABLES.items():
        table.clear()
        table.update(before[name])


def test_each_example_is_a_definition_and_one_line(added):
    assert list(SECTIONS) == ["A new bijector", "A new transformer", "A new flow"]
    assert [len(new) for new in added.values()] == [1, 1, 1]


def test_new_bijector(added, tmp_path):
    (name,) = added["BIJECTORS"]
    test_contract.test_float64_against_autodiff(name, tmp_path)
    test_contract.test_float32_and_xla(name)
    test_contract.check_both_results_at_once(*make(name, tf.float64))


def test_new_transformer(added):
    ((name, transformer),) = added["TRANSFORMERS"].items()
    test_transformers.test_round_trip_and_shapes(transformer)
    test_transformers.test_increasing(transformer)
    test_transformers.test_zeros_give_nearly_the_identity(name)
    for direction in ("forward", "inverse"):
        test_transformers.test_log_slope_is_that_of_autodiff(transformer, direction)
        test_transformers.test_gradients(transformer, direction)


def test_new_flow(added):
    (build,) = added["READY_MADE"].values()
    flow = build(context_shape=2, dtype=tf.float64)
    random = np.random.RandomState(0)
    latents, context = (tf.constant(random.normal(size=(4, n))) for n in (3, 2))
    assert flows.check_bijector(flow.bijector, latents, context=context).faults == []
    assert "context_shape: `(k,)`" in build.func.__doc__


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "context"])
def test_new_flow_trains_saves_and_serves(conditional, added, tmp_path, monkeypatch):
    ((name, build),) = added["READY_MADE"].items()
    monkeypatch.setitem(test_families.FAMILIES, name, lambda c: build(context_shape=c))
    test_families.test_trains_saves_and_serves(name, conditional, tmp_path)


def test_each_room_is_described():
    rooms = Path(flows.__file__).parent
    names = {path.name for path in rooms.iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)) == names | {"base"}
