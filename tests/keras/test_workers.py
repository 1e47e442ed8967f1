"""Two processes train like one device; if one dies, the other does not hang."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

START = """
import contextlib, json, os, sys, time
import numpy as np, tensorflow as tf

many = "TF_CONFIG" in os.environ
strategy = tf.distribute.MultiWorkerMirroredStrategy() if many else None

import tfp_flows as flows
from tfp_flows.keras_engine import keras

out = sys.argv[1]
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"] if many else 0
random = np.random.RandomState(0)
# The last batch of 64 holds one example: one worker gets none.
x = (random.normal(size=(129, 4)) @ random.normal(size=(4, 4))).astype("float32")


def build(flow, optimizer):
    with strategy.scope() if many else contextlib.nullcontext():
        model = flows.FlowModel(flow())
        model.compile(optimizer(), jit_compile=False)
    return model


def plain():
    return flows.real_nvp((4,), 2, (8,))


def weights_of(model):
    return [v.numpy().tolist() for v in model.flow.variables]
"""

TRAIN = """
keras.utils.set_random_seed(index)  # all take what the chief has
model = build(plain, lambda: keras.optimizers.SGD(1e-2, momentum=0.9, global_clipnorm=0.5))
rows = tf.data.Dataset.from_tensor_slices(x).batch(64)
history = model.fit(rows, epochs=2, validation_data=rows, verbose=0)
model.save(out + ".keras")
model.save_weights(out + ".weights.h5")
scores = model.score(rows, out + ".npy", verbose=0)
found = {
    "losses": history.history["loss"] + history.history["val_loss"],
    "evaluated": model.evaluate(rows, verbose=0),
    "predicted": model.predict(rows, verbose=0).tolist(),
    "scored": scores.tolist(),
    "weights": weights_of(model),
}
assert found["losses"][1] < found["losses"][0]
np.testing.assert_allclose(keras.saving.load_model(out + ".keras").log_prob(x), scores, rtol=1e-5)
pixels = np.clip(np.round(x * 2 + 4), 0, 7).astype("int32").reshape(-1, 2, 2, 1)
pixel_flow = lambda: flows.Dequantized(flows.glow((2, 2, 1), 1, 2, 4), levels=8)
model = build(pixel_flow, keras.optimizers.Adam)
mine = pixels if not many else pixels[index::2]  # data that the user has shared out
flow, batch = model.flow, tf.data.Dataset.from_tensor_slices(mine).batch(len(mine))
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
seen = []
import tfp_flows.model.flow_model as module
whole = flows.initialize
module.initialize = lambda flow, rows, **kwargs: seen.append(len(rows)) or whole(flow, rows)
model.fit(batch.with_options(options), epochs=1, verbose=0)
assert seen == [len(pixels)], seen  # the whole batch, which no worker has
found["pixel_weights"] = weights_of(model)
print("found", json.dumps(found))
"""

GO_ON = """
epochs, pause = int(sys.argv[2]), float(sys.argv[3])
keras.utils.set_random_seed(0)


class Say(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print("epoch", epoch, flush=True)
        time.sleep(pause)


model = build(plain, lambda: keras.optimizers.Adam(1e-2))
callbacks = [flows.BackupAndRestore(out, delete_checkpoint=False), Say()]
model.fit(x, batch_size=64, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
print("found", json.dumps({"weights": weights_of(model)}))
"""


class Worker:
    """A process that runs a script; what it says goes to files, since a full pipe would stop it."""

    def __init__(self, arguments, environment):
        command = [sys.executable, "-c", START + arguments[0], *map(str, arguments[1:])]
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        out, error = self._files
        environment = os.environ | environment
        self.process = subprocess.Popen(command, stdout=out, stderr=error, env=environment)

    def said(self):
        """What it has written so far, to its output and to its errors."""
        # `pread` leaves the offset alone, which the process shares.
        return [os.pread(f.fileno(), 1 << 24, 0).decode() for f in self._files]

    def await_line(self, line, seconds=120):
        """Waits until it has written a line; fails if it ends before, or takes longer."""
        end = time.monotonic() + seconds
        while line not in self.said()[0].splitlines():
            assert self.process.poll() is None and time.monotonic() < end, self.said()[1][-3000:]
            time.sleep(0.05)

    def end(self, seconds=300):
        """Waits until it ends; returns its exit status, output and errors."""
        try:
            return self.process.wait(seconds), *self.said()
        finally:
            self.process.kill()


def start(script, *arguments, workers=2):
    """Processes that run the script, as workers of one cluster if there are several."""
    sockets = [socket.socket() for _ in range(workers)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    environments = [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})}
        for i in range(workers)
    ]
    return [Worker((script, *arguments), e if workers > 1 else {}) for e in environments]


def results(workers):
    found = []
    try:
        for worker in workers:
            status, out, error = worker.end()
            assert status == 0, error[-3000:]
            found.append(json.loads(out.split("found ")[1]))
    finally:
        for worker in workers:
            worker.process.kill()
    return found


def assert_same(found, expected, names, **tolerance):
    for name in names:
        for one, other in zip(found[name], expected[name], strict=True):
            np.testing.assert_allclose(one, other, err_msg=name, **tolerance)


def test_two_workers_equal_one_device(tmp_path):
    one, other = results(start(TRAIN, tmp_path / "both"))
    for name in one:  # to the last bit, though both wrote the same files at once
        assert one[name] == other[name], name
    (alone,) = results(start(TRAIN, tmp_path / "alone", workers=1))
    one["evaluated"], alone["evaluated"] = [one["evaluated"]], [alone["evaluated"]]
    assert_same(one, alone, ["losses", "evaluated", "predicted", "scored"], rtol=1e-5)
    assert_same(one, alone, ["weights"], rtol=1e-5, atol=1e-6)
    ending = {"both.keras", "both.weights.h5", "both.npy"}
    assert {p.name for p in tmp_path.glob("both*")} == ending
    assert not list(tmp_path.glob(".*"))  # no drafts are left


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_ends_the_training_which_then_goes_on(tmp_path, victim):
    backup = tmp_path / "backup"
    workers = start(GO_ON, backup, 1000, 0.2)
    workers[victim].await_line("epoch 2")
    workers[victim].process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    status, _, error = workers[1 - victim].end(120)
    assert time.monotonic() - killed < 60
    assert status == 1
    assert "Another worker has died" in error and "BackupAndRestore" in error
    epochs = 8
    again = start(GO_ON, backup, epochs, 0)
    one, other = results(again)
    assert one == other
    (alone,) = results(start(GO_ON, tmp_path / "other", epochs, 0, workers=1))
    assert_same(one, alone, ["weights"], rtol=1e-4, atol=1e-5)


def test_example():
    command = [sys.executable, str(EXAMPLES / "many_workers.py"), "--steps", "30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Losses and weights of all workers are equal." in done.stdout
    assert "Epoch 3/3" in done.stdout
