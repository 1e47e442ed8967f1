"""What Keras's callbacks see of a flow: its variables by name, and what FlowHealth measures."""

import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.summary

import tfp_flows as flows
from tfp_flows.core import variable_paths
from tfp_flows.keras_engine import keras

ROWS = np.random.RandomState(0).normal(size=(64, 2)).astype("float32")
MEASURES = {f"health_{m}" for m in ("round_trip", "log_det", "condition", "saturation", "skipped")}


def fitted(callbacks, epochs=2):
    model = flows.FlowModel(flows.neural_spline((2,), 3, (4,), 2))
    model.compile(keras.optimizers.Adam(1e-2))
    return model, model.fit(ROWS, epochs=epochs, verbose=0, callbacks=callbacks)


@pytest.fixture
def written(monkeypatch):
    """What is written to summaries, where TensorBoard itself need not be installed."""
    tags = {"scalar": {}, "histogram": {}}
    for kind, found in tags.items():

        def write(name, data, step=None, found=found, **_):
            found.setdefault(name, []).append(tf.convert_to_tensor(data).numpy())

        for module in (tf.summary, tf.compat.v2.summary, sys.modules["tensorflow.summary"]):
            monkeypatch.setattr(module, kind, write)
    return tags


def test_tensorboard_shows_every_variable_and_measure(written, tmp_path):
    board = keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1)
    model, _ = fitted([flows.FlowHealth(ROWS[:8], condition=None), board])
    expected = {
        "/".join(path.rsplit(".", 1)) + "/histogram": variable
        for path, variable in variable_paths(model.flow).items()
        if variable.dtype.is_floating
    }
    assert set(written["histogram"]) == set(expected)
    for name, variable in expected.items():
        first, last = written["histogram"][name]
        np.testing.assert_array_equal(last, variable)
        assert not variable.trainable or not np.array_equal(first, last), name
    shown = {name.removeprefix("epoch_") for name in written["scalar"]}
    assert shown >= {"loss", "health_round_trip", "health_log_det", "health_condition"}


def test_tensorboard_itself_reads_them(tmp_path):
    pytest.importorskip("tensorboard")
    fitted([keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, write_images=True)])
    tags = {
        value.tag
        for file in tmp_path.rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert any(tag.endswith("/log_scale/histogram") for tag in tags), tags


def test_measures_reach_the_history_and_can_be_monitored(tmp_path):
    stop = keras.callbacks.EarlyStopping(monitor="health_log_det", mode="max", min_delta=100.0)
    path = tmp_path / "best.weights.h5"
    best = keras.callbacks.ModelCheckpoint(
        str(path), "health_round_trip", save_best_only=True, save_weights_only=True, mode="min"
    )
    health = flows.FlowHealth(ROWS[:8], skipped=None)
    _, history = fitted([health, stop, best], epochs=3)
    assert path.exists()
    assert history.epoch == [0, 1]  # the first epoch was not bettered by 100
    assert set(history.history) == {"loss"} | MEASURES - {"health_saturation"}
    for epoch, record in enumerate(health.history[1:]):
        layers = record["layers"]
        worst = max(layer["round_trip"] for layer in layers)
        assert history.history["health_round_trip"][epoch] == worst
        largest = max(abs(layer[k]) for layer in layers for k in ("log_det_min", "log_det_max"))
        assert history.history["health_log_det"][epoch] == largest
        assert history.history["health_skipped"][epoch] == record["skipped"] == 0
