"""Saving, loading and exporting: complete, or refused. Runs under Keras 3 and tf_keras."""

import json
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small_flows import moved
from test_flow_model import DISTRIBUTIONS, PIXELS, ROWS, compiled, pixel_flow, vector_flow

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.core import variable_paths
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions

EVERY = pytest.mark.parametrize("name", DISTRIBUTIONS)


def trained(name):
    build, x = DISTRIBUTIONS[name]
    model = compiled(build())
    model.fit(x, epochs=1, batch_size=32, verbose=0)
    return model, x


def assert_same_variables(one, two):
    ours, theirs = variable_paths(one.flow), variable_paths(two.flow)
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


@EVERY
def test_keras_file(name, tmp_path):
    model, x = trained(name)
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    assert_same_variables(model, loaded)
    if x is ROWS:
        np.testing.assert_allclose(loaded.log_prob(x), model.log_prob(x), rtol=1e-5)
        np.testing.assert_array_equal(loaded.sample(4, seed=3), model.sample(4, seed=3))
    # Training continues where it stopped: the file holds the state of the optimizer.
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) > 0
    loaded.fit(x, epochs=1, verbose=0)
    assert sorted(os.listdir(tmp_path)) == ["flow.keras"]


@EVERY
def test_weights_file(name, tmp_path):
    model, _ = trained(name)
    path = tmp_path / "flow.weights.h5"
    model.save_weights(path)
    with h5py.File(path) as file:
        assert set(file["vars"]) == set(variable_paths(model.flow))
    other = compiled(DISTRIBUTIONS[name][0]())
    other.load_weights(path)
    assert_same_variables(model, other)


@EVERY
def test_saved_model(name, tmp_path):
    model, x = trained(name)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    log_prob = served.signatures["log_prob"]
    default = served.signatures["serving_default"]
    x = tf.cast(x, model.flow.dtype)
    for n in (0, 1, 5):
        assert log_prob(x=x[:n])["log_prob"].shape == [n]
    if model.flow.dtype.is_floating:
        np.testing.assert_allclose(default(x=x)["log_prob"], model.log_prob(x), rtol=1e-4)
    arguments = {"n": tf.constant(6), "seed": tf.constant([3, 0])}
    if "encode" in served.signatures:
        arguments["temperature"] = tf.constant(0.7)
        expected = model.sample(6, seed=3, temperature=0.7)
        z = served.signatures["encode"](x=x)["encode"]
        np.testing.assert_allclose(z, model.encode(x), atol=1e-4)
        decoded = served.signatures["decode"](z=z)["decode"]
        np.testing.assert_allclose(decoded, model.decode(z), atol=1e-4)
    else:
        expected = model.sample(6, seed=3)
    sample = served.signatures["sample"](**arguments)["sample"]
    np.testing.assert_allclose(sample, expected, atol=1e-4)


SERVE_ALONE = """
import sys
for name in ("tfp_flows", "tensorflow_probability", "keras", "tf_keras"):
    sys.modules[name] = None  # importing it is an error
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], served.signatures["serving_default"](x=tf.constant(x))["log_prob"])
sample = served.signatures["sample"]
s = sample(n=tf.constant(4), seed=tf.constant([5, 0]), temperature=tf.constant(1.0))["sample"]
np.save(sys.argv[4], s)
"""


def test_saved_model_in_a_process_without_this_package_or_tfp(tmp_path):
    model, x = trained("real_nvp")
    model.export(tmp_path / "served")
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / p) for p in ("served", "x.npy", "log_prob.npy", "sample.npy")]
    subprocess.run([sys.executable, "-c", SERVE_ALONE, *paths], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(paths[2]), model.log_prob(x), rtol=1e-4)
    np.testing.assert_allclose(np.load(paths[3]), model.sample(4, seed=5), atol=1e-4)


LOAD_ALONE = """
import sys
import numpy as np, tfp_flows
from tfp_flows.keras_engine import keras
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], model.log_prob(np.load(sys.argv[2])))
"""


def test_keras_file_in_another_process(tmp_path):
    model, x = trained("real_nvp")
    model.save(tmp_path / "flow.keras")
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / p) for p in ("flow.keras", "x.npy", "log_prob.npy")]
    subprocess.run([sys.executable, "-c", LOAD_ALONE, *paths], check=True)
    np.testing.assert_allclose(np.load(paths[2]), model.log_prob(x), rtol=1e-5)


def test_checkpoints_of_callbacks(tmp_path):
    model = compiled(vector_flow())
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), save_best_only=False),
        keras.callbacks.ModelCheckpoint(str(tmp_path / "last.weights.h5"), save_weights_only=True),
    ]
    model.fit(ROWS, epochs=2, callbacks=callbacks, verbose=0)
    assert_same_variables(model, keras.saving.load_model(tmp_path / "best.keras"))
    other = compiled(vector_flow())
    other.load_weights(tmp_path / "last.weights.h5")
    assert_same_variables(model, other)


@pytest.mark.parametrize("transformer", ["affine", "spline"])
def test_weights_bring_the_masks_of_a_random_order(transformer, tmp_path):
    def make():
        made = flows.maf((6,), 2, (8,), transformer, 3, order="random", context_shape=2)
        return flows.FlowModel(moved(made))

    model, other, path = make(), make(), tmp_path / "flow.weights.h5"
    random = np.random.RandomState(0)
    x, c = (random.normal(size=(9, n)).astype("float32") for n in (6, 2))
    model.save_weights(path)
    other.load_weights(path)
    expected = model.log_prob(x, context=c)
    np.testing.assert_array_equal(other.log_prob(x, context=c), expected)
    other.save(tmp_path / "flow.keras")  # whose description follows the masks that were loaded
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(loaded.log_prob(x, context=c), expected, rtol=1e-5)


def test_initialised_flag_is_saved(tmp_path):
    model, _ = trained("dequantised glow")
    path = "flow.bijector.scales.0.bijectors.1.bijectors.0."
    shift = variable_paths(model.flow)[path + "shift"].numpy()
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    found = variable_paths(loaded.flow)
    assert np.all(found[path + "initialized"].numpy())
    flows.initialize(loaded.flow, PIXELS + 0)
    np.testing.assert_array_equal(found[path + "shift"], shift)


def test_file_that_does_not_fit_changes_nothing(tmp_path):
    for name, layers, hidden in (("3", 3, 8), ("9", 2, 9)):
        other = compiled(flows.real_nvp((3,), layers=layers, hidden=(hidden,)))
        other.fit(ROWS, verbose=0)
        other.save_weights(tmp_path / f"{name}.weights.h5")
    model, _ = trained("real_nvp")
    before = [v.numpy() for v in model.training_state.variables_by_name().values()]
    with pytest.raises(ValueError, match=r"only in the file: bijector\.bijectors\.1"):
        model.load_weights(tmp_path / "3.weights.h5")
    with pytest.raises(ValueError, match=r"shape of .*kernel: .*9.* in the file, .*8"):
        model.load_weights(tmp_path / "9.weights.h5")
    after = model.training_state.variables_by_name().values()
    for variable, value in zip(after, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_file_of_another_version(tmp_path):
    path = tmp_path / "flow.keras"
    model, _ = trained("real_nvp")
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    config["config"]["format"], config["config"]["tfp_flows"] = 99, "9.9.9"
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(Exception, match=r"tfp_flows 9\.9\.9 in format 99"):
        keras.saving.load_model(path)


def test_a_flow_without_description_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "flow.keras"
    path.write_bytes(b"the old file")
    coupling = fb.AffineCoupling(lambda a: tf.concat([a, a], -1))
    chain = fb.Chain([coupling, fb.ActNorm(2)])
    model = compiled(tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), chain))
    with pytest.raises(TypeError, match=r"conditioner cannot be saved.*register_keras"):
        model.save(path)
    assert path.read_bytes() == b"the old file"
    assert os.listdir(tmp_path) == ["flow.keras"]
    model.save_weights(tmp_path / "flow.weights.h5")


@keras.saving.register_keras_serializable(package="tests")
def doubled(identity):
    return tf.concat([identity, tf.sin(identity)], -1)


@keras.saving.register_keras_serializable(package="tests")
def arctangent(params):
    return tf.math.atan(params)


def test_registered_functions_and_shared_parts_are_saved(tmp_path):
    shared = fb.AffineCoupling(doubled, scale_map=arctangent)
    chain = fb.Chain([shared, fb.ActNorm(2), tfb.Permute([1, 0]), shared])
    model = compiled(tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), chain))
    flows.initialize(model.flow, ROWS[:, :2])
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    parts = loaded.flow.bijector.bijectors
    assert parts[0] is parts[3]
    np.testing.assert_allclose(loaded.log_prob(ROWS[:, :2]), model.log_prob(ROWS[:, :2]), rtol=1e-5)


def test_paths_that_cannot_be_written(tmp_path):
    model, _ = trained("real_nvp")
    model.save_weights(tmp_path / "flow.weights.h5")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save_weights(tmp_path / "flow.weights.h5", overwrite=False)
    model.export(tmp_path / "served")
    model.export(tmp_path / "served")  # replaces it
    assert sorted(os.listdir(tmp_path)) == ["flow.weights.h5", "served"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="other things"):
        model.export(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ValueError, match=r"end in \.keras"):
        model.save(tmp_path / "flow.h5")
    with pytest.raises(ValueError, match=r"end in \.weights\.h5"):
        model.save_weights(tmp_path / "flow.h5")


def test_a_save_that_fails_changes_nothing(tmp_path, monkeypatch):
    model, _ = trained("real_nvp")
    path = tmp_path / "flow.weights.h5"
    model.save_weights(path)
    old = path.read_bytes()
    model.flow.trainable_variables[0].assign_add(tf.ones_like(model.flow.trainable_variables[0]))
    monkeypatch.setattr(  # a file that lost an array
        type(model), "save_own_variables", lambda self, store: store.__setitem__("x", np.zeros(2))
    )
    with pytest.raises(ValueError, match="missing in the file"):
        model.save_weights(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["flow.weights.h5"]


def test_float64_flow(tmp_path):
    model = compiled(flows.nice((3,), 2, (4,), dtype=tf.float64))
    model.fit(ROWS, epochs=1, verbose=0)
    assert model.log_prob(ROWS).dtype == tf.float64
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(loaded.log_prob(ROWS), model.log_prob(ROWS), rtol=1e-12)


def test_a_description_of_glow_gives_an_equal_flow():
    from tfp_flows.saving import from_config, to_config

    flow = pixel_flow()
    config = json.loads(json.dumps(to_config(flow)))
    again = from_config(config)
    assert repr(again) == repr(flow)
    assert list(variable_paths(again)) == list(variable_paths(flow))
