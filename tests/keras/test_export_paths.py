"""Paths and formats that `FlowModel` writes. Runs under Keras 3 and tf_keras."""

import os

import numpy as np
import pytest
import tensorflow as tf
from served_flows import PIXELS, RANDOM

import tfp_flows as flows

WRITERS = {"flow.keras": "save", "flow.weights.h5": "save_weights", "served": "export"}


@pytest.fixture(scope="module")
def model():
    flow = flows.nice((3,), 2, (4,))
    flows.initialize(flow, RANDOM.normal(size=(8, 3)))
    return flows.FlowModel(flow)


@pytest.mark.parametrize("name", WRITERS)
def test_parent_folders_are_made(name, model, tmp_path):
    path = tmp_path / "a" / "b" / name
    getattr(model, WRITERS[name])(path)
    flows.verify(path)
    assert os.listdir(tmp_path / "a" / "b") == [name]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write .*file.*cannot be made"):
        getattr(model, WRITERS[name])(tmp_path / "file" / name)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("scheme", ["gs", "s3", "ram"])
def test_remote_paths_are_refused(name, scheme, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = f"{scheme}://bucket/{name}"
    with pytest.raises(ValueError, match=f"{path} is not a local path.*copy"):
        getattr(model, WRITERS[name])(path)
    with pytest.raises(ValueError, match="not a local path"):
        flows.verify(path)
    if name == "flow.weights.h5":
        with pytest.raises(ValueError, match="not a local path"):
            model.load_weights(path)
    assert os.listdir(tmp_path) == []  # and no folder `gs:` either


def test_remote_backups_and_scores_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not a local path"):
        flows.BackupAndRestore("gs://bucket/backup")
    data = tf.data.Dataset.from_tensors(np.zeros([2, 3], np.float32))
    with pytest.raises(ValueError, match="not a local path"):
        model.score(data, "gs://bucket/scores.npy", verbose=0)
    assert os.listdir(tmp_path) == []


def test_a_saved_model_that_is_copied_to_another_file_system_serves(model, tmp_path):
    model.export(tmp_path / "served")
    remote = "ram://test_places/served"
    for path in (p for p in (tmp_path / "served").rglob("*") if p.is_file()):
        copy = f"{remote}/{path.relative_to(tmp_path / 'served')}"
        tf.io.gfile.makedirs(os.path.dirname(copy))
        tf.io.gfile.copy(str(path), copy)
    x = tf.ones([2, 3])
    served = tf.saved_model.load(remote).signatures["log_prob"]
    np.testing.assert_allclose(served(x=x)["log_prob"], model.log_prob(x), rtol=1e-5)


@pytest.mark.parametrize("format", ["tflite", "litert", "openvino", "SavedModel", None])
def test_unknown_formats_are_refused(format, model, tmp_path):
    with pytest.raises(
        ValueError, match=f"format must be 'tf_saved_model' or 'onnx', got '?{format}"
    ):
        model.export(tmp_path / "served", format=format)
    with pytest.raises(TypeError):
        model.export(tmp_path / "served", input_signature=[])
    assert os.listdir(tmp_path) == []


def test_pixels_of_another_dtype(model, tmp_path):
    pixels, rows = flows.Dequantized(flows.nice((16,), 2, (4,)), levels=8), PIXELS.reshape(16, 16)
    flows.initialize(pixels, rows)
    images = flows.FlowModel(pixels)
    images.export(tmp_path / "served", pixel_dtype="uint8")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    x = tf.constant(rows, tf.uint8)
    assert np.isfinite(served["log_prob"](x=x)["log_prob"]).all()
    z = served["encode"](x=x)["encode"]
    np.testing.assert_allclose(z, images.encode(rows), rtol=1e-5, atol=1e-5)
    decoded = served["decode"](z=z)["decode"]
    assert decoded.dtype == tf.uint8
    np.testing.assert_array_equal(decoded, rows)
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected to be a uint8"):
        served["log_prob"](x=tf.cast(x, tf.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="whole pixels"):
        served["log_prob"](x=x + 8)
    too_many = flows.FlowModel(flows.Dequantized(flows.nice((4,), 2, (4,)), levels=257))
    for refused, dtype in ((model, "uint8"), (too_many, "uint8"), (images, "float32")):
        with pytest.raises(ValueError, match="pixel_dtype"):
            refused.export(tmp_path / "refused", pixel_dtype=dtype)
