"""Saved files with damaged bytes: an error, or the same flow; never other numbers."""

import subprocess

import h5py
import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows
from tfp_flows.keras_engine import keras

X = np.random.RandomState(0).normal(size=(4, 3)).astype(np.float32)
DAMAGES = ("flip a bit", "set a byte", "delete", "insert", "truncate", "zero a page")


def small_model():
    flow = flows.nice((3,), 2, (4,))
    flows.initialize(flow, X)
    for i, variable in enumerate(flow.trainable_variables):
        noise = tf.random.stateless_normal(variable.shape, [i, 0], dtype=variable.dtype)
        variable.assign_add(0.1 * noise)
    return flows.FlowModel(flow)


def damaged(content, seed):
    """The bytes with one damage, which the seed chooses, and its description."""
    random = np.random.RandomState(seed)
    kind, at = DAMAGES[seed % len(DAMAGES)], random.randint(len(content))
    new, count = bytearray(content), random.randint(1, 9)
    if kind == "flip a bit":
        new[at] ^= 1 << random.randint(8)
    elif kind == "set a byte":
        new[at] = random.randint(256)
    elif kind == "delete":
        del new[at : at + count]
    elif kind == "insert":
        new[at:at] = random.bytes(count)
    elif kind == "truncate":
        del new[at:]
    else:
        new[at : at + 512] = bytes(len(new[at : at + 512]))
    return bytes(new), f"seed {seed}: {kind} at {at} of {len(content)}"


def survives(content, seeds, load):
    """Loads damaged files; returns how many were refused, and those that gave other values."""
    refused, wrong = 0, []
    for seed in seeds:
        new, what = damaged(content, seed)
        if new == content:
            continue
        try:
            same = load(new)
        except Exception as error:
            assert not isinstance(error, AssertionError), what
            refused += 1
        else:
            if not same:
                wrong.append(what)
    return refused, wrong


def loader_of_keras_files(folder, model):
    expected = model.flow.log_prob(X).numpy()

    def load(content):
        (folder / "damaged.keras").write_bytes(content)
        loaded = keras.saving.load_model(folder / "damaged.keras", compile=False)
        return np.array_equal(loaded.flow.log_prob(X).numpy(), expected)

    return load


def loader_of_weights(folder, model):
    expected = [v.numpy() for v in model.flow.variables]
    other = small_model()

    def load(content):
        for variable in other.flow.trainable_variables:
            variable.assign(tf.zeros_like(variable))
        (folder / "damaged.weights.h5").write_bytes(content)
        try:
            other.load_weights(folder / "damaged.weights.h5")
        except Exception:
            # Nothing was changed.
            assert not any(np.any(v) for v in other.flow.trainable_variables)
            raise
        return all(map(np.array_equal, other.flow.variables, expected))

    return load


LOADERS = {"flow.keras": loader_of_keras_files, "flow.weights.h5": loader_of_weights}


def check_damages(name, seeds, folder):
    model = small_model()
    getattr(model, "save" if name == "flow.keras" else "save_weights")(folder / name)
    content = (folder / name).read_bytes()
    refused, wrong = survives(content, seeds, LOADERS[name](folder, model))
    assert wrong == []
    assert refused > len(seeds) / 2  # the others hit padding


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files_are_refused_or_the_same(name, tmp_path):
    check_damages(name, range(24), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name, last", [("flow.weights.h5", 1024), ("flow.keras", 324)])
def test_many_damaged_files_are_refused_or_the_same(name, last, tmp_path):
    """A model is built for every `.keras` file, so fewer of these.

    Some of the weights files are such that HDF5 would hang.
    """
    check_damages(name, range(24, last), tmp_path)


def test_every_byte_of_the_values_counts(tmp_path):
    """What Keras alone does not see: a bit of a number in the middle of a weights file."""
    model, path = small_model(), tmp_path / "flow.weights.h5"
    model.save_weights(path)
    content = path.read_bytes()
    for variable in model.flow.trainable_variables:
        at = content.index(variable.numpy().tobytes())
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"flow\.weights\.h5 is damaged"):
            model.load_weights(path)
        with pytest.raises(ValueError, match=r"flow\.weights\.h5 is damaged"):
            flows.verify(path)


def test_a_file_whose_checksum_is_erased_is_refused_or_the_same(tmp_path):
    """It would pass for a file of another program; but HDF5 needs the bytes around it."""
    model = small_model()
    model.save_weights(tmp_path / "flow.weights.h5")
    content = (tmp_path / "flow.weights.h5").read_bytes()
    load = loader_of_weights(tmp_path, model)
    mark, refused = content.index(b"tfp_flows_sha256="), 0
    for size in (16, 512, 4096):
        for at in range(mark - size + 1, mark + 1, max(size // 24, 1)):
            erased = content[:at] + bytes(size) + content[at + size :]
            try:
                same = load(erased)
            except Exception as error:
                assert not isinstance(error, AssertionError)
                refused += 1
            else:
                assert same
    assert refused > 40


def test_damaged_saved_models_do_not_pass_verify(tmp_path):
    folder = tmp_path / "served"
    model = small_model()
    model.export(folder)
    flows.verify(folder)
    contents = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for path, content in contents.items():
        for seed in range(60):
            new, what = damaged(content, seed)
            path.write_bytes(new)
            is_list = path.name == "sha256sums"  # where white space may not matter
            if new != content and not (is_list and new.split() == content.split()):
                with pytest.raises(ValueError, match="is damaged"):
                    flows.verify(folder)
                    pytest.fail(f"{path.name}, {what}")
        path.write_bytes(content)
    flows.verify(folder)
    for kind in ("sha256sum", "shasum"):  # and without this package
        check = subprocess.run(
            f"{kind} --check assets.extra/sha256sums", shell=True, cwd=folder, capture_output=True
        )
        if check.returncode != 127:
            assert check.returncode == 0, check.stderr
    (folder / "assets" / "more").write_text("what was not there")
    with pytest.raises(ValueError, match="assets/more"):
        flows.verify(folder)


def test_tensorflow_checks_the_variables_of_a_saved_model_itself(tmp_path):
    small_model().export(tmp_path / "served")
    path = next((tmp_path / "served" / "variables").glob("variables.data*"))
    content = path.read_bytes()
    for at in range(0, len(content) // 2, 200):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(Exception, match=r"[Cc]hecksum|[Cc]orrupt|DATA_LOSS"):
            tf.saved_model.load(str(tmp_path / "served"))


def test_files_without_a_checksum_are_loaded_and_do_not_verify(tmp_path):
    model, other = small_model(), small_model()
    keras.Model.save_weights(model, str(tmp_path / "plain.weights.h5"))
    for variable in other.flow.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    other.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_array_equal(other.flow.log_prob(X), model.flow.log_prob(X))
    with pytest.raises(ValueError, match="holds no checksum"):
        flows.verify(tmp_path / "plain.weights.h5")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        flows.verify(tmp_path / "missing.keras")


def test_the_checksum_covers_the_state_of_the_optimizer(tmp_path):
    model, path = small_model(), tmp_path / "flow.weights.h5"
    model.compile("adam")
    model.fit(X, verbose=0)
    model.save_weights(path)
    flows.verify(path)
    with h5py.File(path, "r+") as file:
        moments = file["optimizer/vars"]["2"]
        moments[...] = moments[...] + 1
    before = [v.numpy() for v in model.optimizer.variables]
    with pytest.raises(ValueError, match="not those that were saved"):
        model.load_weights(path)
    for variable, value in zip(model.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
