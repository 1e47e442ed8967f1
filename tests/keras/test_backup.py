"""Interrupted and resumed: the training equals the uninterrupted one."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows
from tfp_flows.core import variable_paths
from tfp_flows.keras_engine import keras
from tfp_flows.model.loss_scaling import LossScaleOptimizer

RANDOM = np.random.RandomState(0)
ROWS = RANDOM.normal(size=(44, 3)).astype("float32")
PIXELS = RANDOM.randint(0, 8, (44, 2, 2, 1))
LATENT = RANDOM.normal(size=(44, 2)).astype("float32")


def rows():
    return flows.real_nvp((3,), 2, (4,)), ROWS


def pixels():
    return flows.Dequantized(flows.glow((2, 2, 1), 1, 2, 4, seed=0), levels=8), PIXELS


def hutchinson():
    settings = dict(solver="fixed", num_steps=2, trace="hutchinson")
    return flows.ffjord((2,), (4,), **settings), LATENT


def data_set():
    return rows()[0], tf.data.Dataset.from_tensor_slices(ROWS).batch(8)


def outliers():
    """Two batches of six are skipped, once there is a usual gradient to compare them with."""
    x = ROWS.copy()
    x[[16, 32]] *= 1e4
    return rows()[0], tf.data.Dataset.from_tensor_slices(x).batch(8)


def half_precision():
    return flows.real_nvp((3,), 2, (4,), network_dtype="mixed_float16"), ROWS


KINDS = {f.__name__: f for f in (rows, pixels, hutchinson, data_set, outliers, half_precision)}


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Stops the training after some batches, as Ctrl-C does."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def fitted(kind, callbacks, **kwargs):
    """Builds everything from scratch, as a script that is run again does."""
    keras.utils.set_random_seed(0)
    flow, x = KINDS[kind]()
    model = flows.FlowModel(flow)
    optimizer = keras.optimizers.Adam(1e-2)
    if kind == "half_precision":  # with a scale that moves
        optimizer = LossScaleOptimizer(optimizer, initial_scale=4.0, dynamic_growth_steps=2)
    model.compile(optimizer)
    size = None if isinstance(x, tf.data.Dataset) else 8
    history = model.fit(x, epochs=3, batch_size=size, callbacks=callbacks, verbose=0, **kwargs)
    return model, history


def assert_same(one, two):
    ours, theirs = variable_paths(one.flow), variable_paths(two.flow)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "save_freq", "interrupted_at", "epochs_left"),
    [
        ("rows", "epoch", 8, [1, 2]),
        ("pixels", 2, 11, [1, 2]),
        pytest.param("hutchinson", 1, 7, [1, 2], marks=pytest.mark.slow),
        pytest.param("data_set", 1, 8, [1, 2], marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted(kind, save_freq, interrupted_at, epochs_left, tmp_path):
    whole, expected = fitted(kind, [])
    backup = flows.BackupAndRestore(tmp_path / "backup", save_freq)
    with pytest.raises(Interrupted):
        fitted(kind, [backup, Interrupt(interrupted_at)])
    resumed, history = fitted(kind, [flows.BackupAndRestore(tmp_path / "backup", save_freq)])
    assert_same(whole, resumed)
    assert history.epoch == epochs_left
    np.testing.assert_allclose(history.history["loss"][-1], expected.history["loss"][-1], 1e-5)
    assert not os.listdir(tmp_path)  # finished, so there is nothing to resume


def skipped(warnings):
    messages = (str(w.message) for w in warnings)
    return [re.search(r"\d+ batch\(es\)", m)[0] for m in messages if "batch(es)" in m]


def test_skipped_batches_are_remembered(tmp_path):
    """The usual size of gradients, and the skipped batches that are not reported yet."""
    with pytest.warns(UserWarning, match="2 batch") as expected:
        whole, _ = fitted("outliers", [])
    with pytest.raises(Interrupted):  # before the second outlier
        fitted("outliers", [flows.BackupAndRestore(tmp_path, 1), Interrupt(4)])
    with pytest.warns(UserWarning, match="2 batch") as found:
        resumed, _ = fitted("outliers", [flows.BackupAndRestore(tmp_path, 1)])
    assert_same(whole, resumed)
    assert skipped(found) == skipped(expected) == ["2 batch(es)"] * 3


def test_skipped_batches_are_reported_once(tmp_path):
    """A backup at the end of an epoch is the start of the next one, which skipped none yet."""
    with pytest.raises(Interrupted), pytest.warns(UserWarning, match="2 batch"):
        fitted("outliers", [flows.BackupAndRestore(tmp_path), Interrupt(7)])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        _, history = fitted("rows", [flows.BackupAndRestore(tmp_path)])
    assert skipped(found) == []
    assert history.epoch == [1, 2]


def test_the_loss_scale_is_resumed(tmp_path):
    def scale(model):
        legacy = getattr(model.optimizer, "loss_scale", None)
        return float(model.optimizer.dynamic_scale if legacy is None else legacy)

    whole, _ = fitted("half_precision", [])
    with pytest.raises(Interrupted):
        fitted("half_precision", [flows.BackupAndRestore(tmp_path, 1), Interrupt(8)])
    resumed, _ = fitted("half_precision", [flows.BackupAndRestore(tmp_path, 1)])
    assert scale(resumed) == scale(whole) == 2048.0
    assert_same(whole, resumed)


def test_a_lowered_learning_rate_is_resumed(tmp_path):
    model, _ = fitted("rows", [])
    model.optimizer.learning_rate = 1e-3
    model.save_weights(tmp_path / "a.weights.h5")
    resumed, _ = fitted("rows", [])
    resumed.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(resumed.optimizer.learning_rate, 1e-3, rtol=1e-6)


def test_the_callback_of_keras_is_replaced(tmp_path):
    whole, _ = fitted("rows", [])
    theirs = [keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), Interrupt(8)]
    with pytest.raises(Interrupted):
        fitted("rows", theirs)
    assert os.listdir(tmp_path / "backup") == ["latest.weights.h5"]
    resumed, _ = fitted("rows", theirs[:1])
    assert_same(whole, resumed)


def test_from_a_checkpoint_of_the_whole_model(tmp_path):
    whole, _ = fitted("rows", [])
    saves = keras.callbacks.ModelCheckpoint(str(tmp_path / "last.keras"))
    with pytest.raises(Interrupted):
        fitted("rows", [saves, Interrupt(14)])
    resumed = keras.saving.load_model(tmp_path / "last.keras")
    resumed.fit(ROWS, epochs=3, batch_size=8, initial_epoch=2, verbose=0)
    assert_same(whole, resumed)


def test_an_interrupted_fit_without_backup_restarts_its_epoch():
    model = flows.FlowModel(rows()[0])
    model.compile("adam")
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    with pytest.raises(Interrupted):
        model.fit(ROWS, batch_size=8, verbose=0, callbacks=[Interrupt(3)])
    model.fit(ROWS, batch_size=8, verbose=0, callbacks=[watch])
    assert len(seen) == 6


def test_backups_of_another_flow_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(Interrupted):
        fitted("rows", [flows.BackupAndRestore(tmp_path), Interrupt(8)])
    with pytest.raises(ValueError, match=r"(?s)backup .*latest.*missing in the file.*move it away"):
        fitted("pixels", [flows.BackupAndRestore(tmp_path)])
    (tmp_path / "latest.weights.h5").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"(?s)backup .*latest.*move it away"):
        fitted("rows", [flows.BackupAndRestore(tmp_path)])
    with pytest.raises(ValueError, match="must be 'epoch' or a number of batches"):
        flows.BackupAndRestore(tmp_path, save_freq=0)


TRAIN = """
import sys
import numpy as np, tensorflow as tf
import tfp_flows as flows
from tfp_flows.keras_engine import keras
from tfp_flows.model.loss_scaling import LossScaleOptimizer

folder, out = sys.argv[1:]
keras.utils.set_random_seed(0)
x = np.random.RandomState(0).randint(0, 8, (240, 2, 2, 1))
model = flows.FlowModel(flows.Dequantized(flows.glow((2, 2, 1), 1, 2, 4, seed=0), levels=8))
model.compile(keras.optimizers.Adam(1e-2))


class Report(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(int(self.model.optimizer.iterations), flush=True)


callbacks = [flows.BackupAndRestore(folder, save_freq=1), Report()]
model.fit(x, epochs=2, batch_size=2, callbacks=callbacks, verbose=0)
np.savez(out, *[v.numpy() for v in model.flow.variables])
"""


def train(folder, out, killed_after=None):
    """Trains in another process; kills it some seconds after its first batch."""
    arguments = [sys.executable, "-c", TRAIN, str(folder), str(out)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    steps = [process.stdout.readline()]
    if killed_after is not None:
        time.sleep(killed_after)
        process.send_signal(signal.SIGKILL)
    steps += process.stdout.read().split("\n")
    process.wait()
    return [int(step) for step in steps if step.strip()]


@pytest.mark.slow
def test_repeated_kills(tmp_path):
    """Each batch is backed up, so most kills happen while a backup is written."""
    train(tmp_path / "a", tmp_path / "whole.npz")
    random.seed(0)
    last, kills = 0, 0
    while not (tmp_path / "killed.npz").exists():
        wait = random.uniform(0.0, 1.0) if kills < 8 else None
        steps = train(tmp_path / "b", tmp_path / "killed.npz", wait)
        kills += wait is not None
        # Every printed step had been backed up; one more may have been, without being printed.
        assert steps[0] in (last + 1, last + 2)
        last = steps[-1]
    assert kills == 8 and last == 240
    whole, killed = np.load(tmp_path / "whole.npz"), np.load(tmp_path / "killed.npz")
    for name in whole:
        np.testing.assert_allclose(killed[name], whole[name], rtol=1e-5, atol=1e-6)
