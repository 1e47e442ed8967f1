"""Files that are made to run code are refused, and no code runs. Under both engines."""

import copy
import json
import pickle
import sys
import zipfile

import h5py
import keras as keras_3
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfd = tfp.distributions
X = np.ones([2, 3], np.float32)
KERAS = {"keras": keras_3, "tf_keras": tf_keras}


class Trap:
    """Hostile code would leave a mark here."""

    def __init__(self, folder, monkeypatch):
        self.mark = folder / "mark"
        (folder / "hostile_module.py").write_text(
            f"open({str(self.mark)!r}, 'w').close()\n"
            "class Thing:\n"
            "    @classmethod\n"
            "    def from_config(cls, config): return cls()\n"
            "class LipSwish(Thing): pass\n"
            "def run(x): return x\n"
        )
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "hostile_module", raising=False)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    return Trap(tmp_path, monkeypatch)


def lambda_layer(engine, mark):
    code = f"lambda x: (open({str(mark)!r}, 'w').close(), x)[1]"
    layer = KERAS[engine].layers.Lambda(eval(code))
    return KERAS[engine].saving.serialize_keras_object(layer)


def described(module, name, config=None, **more):
    registered = more.pop("registered_name", name)
    return {
        "module": module,
        "class_name": name,
        "config": {} if config is None else config,
        "registered_name": registered,
        **more,
    }


def within_a_dense_layer(engine, activation):
    layer = KERAS[engine].saving.serialize_keras_object(KERAS[engine].layers.Dense(3))
    layer["config"]["activation"] = activation
    return layer


HOSTILE_LAYERS = {
    "a lambda": lambda e, mark: lambda_layer(e, mark),
    "a bare lambda": lambda e, mark: {
        "class_name": "__lambda__",
        "config": {"value": lambda_layer(e, mark)["config"]["function"]},
    },
    "a class of any module": lambda e, _: described("hostile_module", "Thing"),
    "a class without registered name": lambda e, _: described(
        "hostile_module", "LipSwish", registered_name=None
    ),
    "another's registered name": lambda e, _: described(
        "hostile_module", "tfp_flows>LipSwish", registered_name=None
    ),
    "a known class, registered otherwise": lambda e, _: described(
        "hostile_module", "AutoregressiveNetwork", registered_name="hostile"
    ),
    "a function of any module": lambda e, _: described("hostile_module", "function", "run"),
    "an activation of any module": lambda e, _: within_a_dense_layer(
        e, described("hostile_module", "function", "run")
    ),
    "a type spec of any module": lambda e, _: described(
        "hostile_module", "__typespec__", [], spec_name="Thing"
    ),
    "os.system": lambda e, _: described("os", "function", "system"),
    "builtins.eval": lambda e, _: described("builtins", "function", "eval"),
    "subprocess.Popen": lambda e, mark: described("subprocess", "Popen", {"args": f"touch {mark}"}),
    "a setting of Keras": lambda e, _: described(
        "keras.config", "function", "enable_unsafe_deserialization"
    ),
    "a download by Keras": lambda e, _: described("keras.utils", "function", "get_file"),
    "a function of TensorFlow that writes files": lambda e, mark: described(
        "tf_keras.src.layers.core.tf_op_layer",
        "TFOpLambda",
        {"name": "write", "function": "io.write_file"},
    ),
    "a SavedModel": lambda e, mark: described(
        "keras.layers", "TFSMLayer", {"filepath": str(mark.parent)}
    ),
    "a file as vocabulary": lambda e, mark: described(
        "keras.layers", "StringLookup", {"vocabulary": "/etc/hostname"}
    ),
    "an old description": lambda e, _: {"class_name": "Lambda", "config": {}},
}


def rewritten(path, change=lambda config: None, members=(), without=()):
    """A copy of a `.keras` file with another description or other members."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    change(config)
    contents |= {"config.json": json.dumps(config).encode(), **dict(members)}
    hostile = path.with_name("hostile.keras")
    with zipfile.ZipFile(hostile, "w") as archive:
        for name, content in contents.items():
            if name not in without:
                archive.writestr(name, content)
    return hostile


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "flow.keras"
    model = flows.FlowModel(flows.real_nvp((3,), 2, (4,)))
    flows.initialize(model.flow, X + np.random.RandomState(0).normal(size=X.shape))
    model.compile("adam")
    model.save(path)
    return path


def replace_networks(part, described_by):
    """Replaces every conditioner in a description."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "conditioner":
                part[key] = copy.deepcopy(described_by)
            else:
                replace_networks(value, described_by)
    elif isinstance(part, list):
        for value in part:
            replace_networks(value, described_by)


@pytest.mark.parametrize("engine", KERAS)
@pytest.mark.parametrize("name", HOSTILE_LAYERS)
def test_hostile_network(name, engine, saved, trap):
    layer = HOSTILE_LAYERS[name](engine, trap.mark)
    hostile = rewritten(saved, lambda c: replace_networks(c, {engine: layer}))
    with pytest.raises(Exception, match="could run code or read"):
        keras.saving.load_model(hostile)
    with pytest.raises(Exception, match="could run code or read"):  # even where the user trusts it
        keras.saving.load_model(hostile, safe_mode=False)
    assert not trap.mark.exists()


HOSTILE_PARTS = {
    "function": {"function": "os.system"},
    "function of a module": {"function": "hostile_module.run"},
    "object": {"object": "subprocess.Popen", "parameters": {"args": "ls"}},
    "object of a module": {"object": "hostile_module.Thing", "parameters": {}},
    "module of TFP": {"object": "tfp.bijectors.os", "parameters": {}},
    "function of TFP": {"object": "tfp.distributions.kl_divergence", "parameters": {}},
    "other": {"pickle": "gASVBAAAAAAAAABLAS4="},
}


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_hostile_part(name, saved, trap):
    hostile = rewritten(saved, lambda c: replace_networks(c, HOSTILE_PARTS[name]))
    with pytest.raises(Exception, match=r"not registered|not known"):
        keras.saving.load_model(hostile)
    assert not trap.mark.exists()


def test_hostile_optimizer(saved, trap):
    def change(config):
        config["compile_config"]["optimizer"] = described("hostile_module", "Thing")

    with pytest.raises(Exception, match="could run code or read"):
        keras.saving.load_model(rewritten(saved, change))
    assert not trap.mark.exists()


class Pickled:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def test_pickle_instead_of_weights(saved, trap, tmp_path):
    array = np.array([Pickled(trap.mark)], dtype=object)
    np.savez(tmp_path / "weights.npz", vars=array)
    bare = pickle.dumps(Pickled(trap.mark))
    for content in ((tmp_path / "weights.npz").read_bytes(), bare):
        for name in ("model.weights.npz", "model.weights.h5"):
            hostile = rewritten(
                saved, members={name: content}, without={"model.weights.h5"} - {name}
            )
            with pytest.raises(Exception, match=r"."):
                keras.saving.load_model(hostile)
            assert not trap.mark.exists()


def test_members_stay_in_the_archive(saved, tmp_path):
    members = {"../outside": b"1", str(tmp_path / "absolute"): b"1", "assets/../../outside": b"1"}
    hostile = rewritten(saved, members=members)
    try:
        keras.saving.load_model(hostile)
    except Exception as refused:
        assert not isinstance(refused, AssertionError)
    assert not list(tmp_path.rglob("outside")) and not list(saved.parent.parent.glob("outside"))
    assert not (tmp_path / "absolute").exists()


ELSEWHERE = "a link to data elsewhere"
HOSTILE_WEIGHTS = {
    "soft link": ELSEWHERE,
    "external link": ELSEWHERE,
    "external data": ELSEWHERE,
    "huge shape": "claims to be larger",
}


@pytest.mark.parametrize("kind", HOSTILE_WEIGHTS)
def test_hostile_weights(kind, tmp_path):
    """A file that would reveal what else is on the disk, or fill the memory."""
    model, path = flows.FlowModel(flows.nice((3,), 2, (4,))), tmp_path / "flow.weights.h5"
    keras.Model.save_weights(model, str(path))  # without a checksum
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 100)
    with h5py.File(path, "r+") as file:
        group = file["vars"]
        name = next(n for n in group if group[n].shape == (3,))
        del group[name]
        if kind == "soft link":
            group[name] = h5py.SoftLink("/vars/" + next(iter(group)))
        elif kind == "external link":
            group[name] = h5py.ExternalLink(str(secret), "/vars")
        elif kind == "huge shape":
            group.create_dataset(name, (2**40,), "<f4")
        else:
            group.create_dataset(name, (3,), "<f4", external=[(str(secret), 0, 12)])
    before = [v.numpy() for v in model.flow.variables]
    with pytest.raises(ValueError, match=HOSTILE_WEIGHTS[kind]):
        model.load_weights(path)
    for variable, value in zip(model.flow.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@keras_3.saving.register_keras_serializable(package="hostile_files")
@tf_keras.saving.register_keras_serializable(package="hostile_files")
def wavy(x):
    return x + 0.1 * tf.sin(x)


@pytest.mark.parametrize("engine", KERAS)
def test_harmless_layers_of_all_kinds_load(engine, tmp_path):
    layers, regularizers = KERAS[engine].layers, KERAS[engine].regularizers
    start = layers.Input([2])
    hidden = layers.Dense(4, "gelu", kernel_regularizer=regularizers.L2(0.1))(start)
    hidden = layers.LayerNormalization()(
        layers.Dense(4, wavy, kernel_constraint="max_norm")(hidden)
    )
    if engine == "keras":
        hidden = hidden + 0.5 * keras_3.ops.tanh(hidden)  # operations as parts of the network
    network = KERAS[engine].Model(start, layers.Dense(2, kernel_initializer="zeros")(hidden))
    flow = fb.Chain([fb.AffineCoupling(network, mask="alternate"), fb.ActNorm(3)])
    model = flows.FlowModel(Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 3), flow))
    flows.initialize(model.flow, X + np.random.RandomState(0).normal(size=X.shape))
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(loaded.flow.log_prob(X), model.flow.log_prob(X), rtol=1e-5)
