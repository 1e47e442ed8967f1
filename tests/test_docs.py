"""Examples in docstrings and in the README run as written."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows

MODULES = [m.name for m in pkgutil.walk_packages(tfp_flows.__path__, "tfp_flows.")]
README = Path(__file__).parent.parent / "README.md"
QUICK_STARTS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
NAMES = {"np": np, "tf": tf, "tfp": tfp, "tfb": tfp.bijectors, "tfd": tfp.distributions}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in finder.find(module, name, extraglobs=NAMES):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_every_public_name_has_an_example():
    without = []
    for place in (tfp_flows, tfp_flows.bijectors, tfp_flows.conditioners):
        for name in place.__all__:
            thing = getattr(place, name)
            is_error = isinstance(thing, type) and issubclass(thing, Exception)
            if callable(thing) and not is_error and ">>>" not in (thing.__doc__ or ""):
                without.append(name)
    assert without == []


def test_docstrings_of_flows_describe_all_arguments():
    for name in tfp_flows.flows.__all__:
        function = getattr(tfp_flows, name)
        described = re.search(r"^Args:\n(.*?)\n\n", inspect.getdoc(function), re.M | re.S)[1]
        names = re.findall(r"^  (\w+): \S", described, flags=re.MULTILINE)
        assert names == list(inspect.signature(function).parameters), name


@pytest.mark.parametrize("code", QUICK_STARTS, ids=range(len(QUICK_STARTS)))
def test_quick_starts_of_the_readme(code, tmp_path):
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_readme_has_a_quick_start_for_each_user():
    assert len(QUICK_STARTS) >= 3


def test_the_table_of_families_has_them_all_with_their_sources():
    table = (README.parent / "docs" / "families.md").read_text()
    rows = dict(re.findall(r"^\| `flows\.(\w+)` (\|.*)$", table, flags=re.MULTILINE))
    helpers = {"dequantizer", "with_labels"}
    assert set(rows) == set(tfp_flows.flows.__all__) - helpers
    for name, row in rows.items():
        flow = getattr(tfp_flows, name)
        assert "context_shape" in inspect.signature(flow).parameters
        for source in re.findall(r"arXiv\s+(\d{4}\.\d{4,5})", flow.__doc__):
            assert source in row, f"{name}: {source} is missing"


QUICK_STARTS_OF_DOCS = [
    code
    for path in sorted((README.parent / "docs").glob("*.md"))
    for code in re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
]


@pytest.mark.parametrize("code", QUICK_STARTS_OF_DOCS, ids=range(len(QUICK_STARTS_OF_DOCS)))
def test_examples_of_the_docs(code, tmp_path):
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
