"""Files of earlier versions load, from either Keras engine, and give the same numbers.

`tests/keras/saved/make.py` writes them. Runs under Keras 3 and tf_keras.
"""

import importlib
import inspect
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from saved.make import ENGINES, FLOWS, answers

import tfp_flows as flows
from tfp_flows import conditioners
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.saving import to_config

FOLDERS = sorted(Path(__file__).parent.glob("saved/format_*"))
EVERY = pytest.mark.parametrize("name", FLOWS)
FROM_EACH = pytest.mark.parametrize("engine", ENGINES)
HERE = "tf_keras" if IS_LEGACY else "keras"


def check_answers(model, folder, name):
    expected = json.loads((folder / "expected.json").read_text())[name]
    # Weights are bitwise equal; another processor may sum in another order.
    np.testing.assert_allclose(answers(model, name), expected, rtol=1e-4, atol=1e-4)


@EVERY
def test_keras_file(name):
    for folder in FOLDERS:
        model = keras.saving.load_model(folder / HERE / f"{name}.keras")
        assert int(model.optimizer.iterations) == 6
        check_answers(model, folder / HERE, name)


@FROM_EACH
@EVERY
def test_weights_file(name, engine):
    for folder in FOLDERS:
        model = flows.FlowModel(FLOWS[name][0]())
        model.load_weights(folder / engine / f"{name}.weights.h5")
        check_answers(model, folder / engine, name)


def test_names_in_files_are_those_of_arguments():
    """Each part of a name but the last is an argument, or an index of a list of them."""
    arguments = {"bijector", "bijectors", "conditioner", "context_encoder", "vector_field", "flow"}
    arguments |= {"scales", "standardize_context"}
    for folder in FOLDERS:
        for name in FLOWS:
            with h5py.File(folder / HERE / f"{name}.weights.h5") as file:
                parts = [part for path in file["vars"] for part in path.split(".")[:-1]]
            assert {p for p in parts if not p.isdigit()} <= arguments


def objects_in(config):
    """All parts of a description that are objects of this package: `(class, parameters)`."""
    if isinstance(config, dict):
        if str(config.get("object")).startswith("tfp_flows."):
            module, _, name = config["object"].rpartition(".")
            yield getattr(importlib.import_module(module), name), config["parameters"]
        config = list(config.values())
    for part in config if isinstance(config, list) else ():
        yield from objects_in(part)


def test_descriptions_hold_all_arguments():
    """Otherwise a change of a default would change old files."""
    found = set()
    for build, _, _ in FLOWS.values():
        for cls, parameters in objects_in(to_config(build())):
            assert {"self", *parameters} == set(inspect.signature(cls.__init__).parameters), cls
            found.add(cls.__name__)
    assert {"Flow", "Dequantized", "Chain", "Repeat", "ActNorm", "AffineCoupling"} <= found


LAYERS = {
    "SpectralDense": lambda: conditioners.SpectralDense(2, bound=0.3),
    "MaskedDense": lambda: conditioners.MaskedDense([1, 2], [0, 1]),
    "LabelEmbedding": lambda: conditioners.LabelEmbedding(3, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_describe_all_their_arguments(name):
    layer = LAYERS[name]()
    arguments = set(inspect.signature(type(layer).__init__).parameters)
    assert arguments - {"self", "args", "kwargs"} <= set(layer.get_config())
