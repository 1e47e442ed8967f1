"""Two replicas train like one device: `MirroredStrategy` over two logical CPUs."""

import json
import subprocess
import sys

import numpy as np
import pytest

START = """
import json, sys
import numpy as np, tensorflow as tf, tensorflow_probability as tfp

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
random = np.random.RandomState(0)
# The last batch of 64 holds one example: one replica gets none.
x = (random.normal(size=(129, 4)) @ random.normal(size=(4, 4))).astype("float32")
context = random.normal(size=(129, 2)).astype("float32")
"""

TRAIN = """
def network():
    # with a penalty on its weights, which is the same on all replicas
    inputs = keras.layers.Input((2,)), keras.layers.Input((2,))
    rule = keras.regularizers.L2(0.1)
    hidden = keras.layers.Dense(8, "tanh", kernel_regularizer=rule)
    return keras.Model(inputs, keras.layers.Dense(4)(hidden(keras.layers.Concatenate()(inputs))))


def build():
    keras.utils.set_random_seed(0)
    if kind == "reversible":
        flow = flows.glow((2, 2, 1), 1, 2, 4, reversible=True, seed=0)
    elif kind == "tfp":
        parts = [fb.AffineCoupling(flows.conditioners.mlp(2, 4, (8,))), fb.ActNorm(4)]
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
        flow = tfd.TransformedDistribution(base, tfb.Chain(parts))
    elif kind == "conditional":  # stacked steps, and a layer that is frozen
        frozen = network()
        frozen.trainable = False
        pair = fb.Chain([fb.AffineCoupling(network()), fb.AffineCoupling(network(), swap=True)])
        parts = [fb.ActNorm(4), fb.Repeat(pair, 2, unroll=True), fb.AffineCoupling(frozen)]
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
        flow = flows.distributions.Flow(base, fb.Chain(parts), context_shape=(2,))
        assert len(flow.trainable_variables) == 2 + 8
    else:
        flow = flows.real_nvp((4,), 2, (8,))
    model = flows.FlowModel(flow)
    clip = 0.5 if kind == "clipped" else None
    optimizer = keras.optimizers.SGD(1e-2, momentum=0.9, global_clipnorm=clip)
    model.compile(optimizer, jit_compile=False)
    return model


data = {"reversible": x.reshape(-1, 2, 2, 1), "conditional": (x, context)}
for kind in sys.argv[1:]:
    given = data.get(kind, x)
    models = [build()]
    with strategy.scope():
        models.append(build())
    for model in models:
        history = model.fit(given, batch_size=64, epochs=2, shuffle=False, verbose=0)
        found = {
            "losses": history.history["loss"],
            "evaluated": np.atleast_1d(model.evaluate(given, batch_size=64, verbose=0)).tolist(),
            "predicted": model.predict(given, batch_size=64, verbose=0).tolist(),
            "weights": [v.numpy().tolist() for v in model.flow.trainable_variables],
        }
        print("found", json.dumps(found))
        assert len(model.trainable_variables) == len(model.flow.trainable_variables)
        assert "_all_reduce_sum_gradients" not in vars(model.optimizer)
"""

INITIALISE = """
pixels = np.clip(np.round(x * 2 + 4), 0, 7).astype("int32").reshape(-1, 2, 2, 1)
with strategy.scope():
    model = flows.FlowModel(flows.Dequantized(flows.glow((2, 2, 1), 1, 2, 4), levels=8))
    model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
batches = tf.data.Dataset.from_tensor_slices(pixels[:128]).batch(64)
seen = []
whole = flows.initialize
import tfp_flows.model.flow_model as module
module.initialize = lambda flow, batch, **kwargs: seen.append(len(batch)) or whole(flow, batch)
losses = model.fit(batches, epochs=12, verbose=0).history["loss"]
assert seen == [64], seen  # once, the whole first batch
assert np.mean(losses[-3:]) < np.mean(losses[:3]), losses  # noise is new in every step
for variable in model.flow.variables:
    one, other = (v.numpy() for v in variable.values)
    assert (one == other).all(), variable.name
assert model.sample(3, seed=0).shape == (3, 2, 2, 1)
assert np.isfinite(model.predict(pixels, batch_size=64, verbose=0)).all()
assert np.isfinite(model.log_prob(pixels).numpy()).all()
print("all right")
"""

FILES = """
import pathlib
out = pathlib.Path(sys.argv[1])
with strategy.scope():
    model = flows.FlowModel(flows.real_nvp((4,), 2, (8,)))
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
model.fit(x, batch_size=64, epochs=1, verbose=0)
expected = model.log_prob(x).numpy()
np.testing.assert_allclose(model.predict(x, batch_size=50, verbose=0), expected, rtol=1e-5)
model.save(out / "flow.keras")
model.save_weights(out / "flow.weights.h5")
model.export(str(out / "served"))
with strategy.scope():
    loaded = keras.saving.load_model(out / "flow.keras")
    other = flows.FlowModel(flows.real_nvp((4,), 2, (8,)))
    other.load_weights(out / "flow.weights.h5")
alone = keras.saving.load_model(out / "flow.keras")
for read in (loaded, other, alone):
    np.testing.assert_allclose(read.log_prob(x).numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(read.sample(5, seed=0), model.sample(5, seed=0))
assert all(len(v.values) == 2 for v in (*loaded.flow.variables, *other.flow.variables))
served = tf.saved_model.load(str(out / "served")).signatures["log_prob"]
scores = model.score(tf.data.Dataset.from_tensor_slices(x).batch(32), out / "scores.npy", verbose=0)
np.testing.assert_allclose(scores, expected, rtol=1e-5)
np.testing.assert_allclose(served(x=tf.constant(x))["log_prob"], expected, rtol=1e-6)
before = loaded.evaluate(x, batch_size=64, verbose=0)
loaded.fit(x, batch_size=64, epochs=2, verbose=0)
assert loaded.evaluate(x, batch_size=64, verbose=0) < before
print("all right")
"""


def output(script, *arguments):
    command = [sys.executable, "-c", START + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check_equal(*kinds):
    lines = [line[6:] for line in output(TRAIN, *kinds).splitlines() if line.startswith("found ")]
    found = [json.loads(line) for line in lines]
    assert len(found) == 2 * len(kinds)
    for one, two in zip(found[::2], found[1::2], strict=True):
        assert one["losses"][1] < one["losses"][0]
        for what in ("losses", "evaluated", "predicted"):  # sums in another order
            np.testing.assert_allclose(two[what], one[what], rtol=1e-5, err_msg=what)
        for weight, expected in zip(two["weights"], one["weights"], strict=True):
            np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


def test_two_replicas_equal_one_device():
    check_equal("conditional")


@pytest.mark.slow
def test_other_flows_equal_one_device():
    check_equal("clipped", "tfp", "reversible")


@pytest.mark.slow
def test_pixels_are_initialised_once_from_the_whole_first_batch():
    assert "all right" in output(INITIALISE)


@pytest.mark.slow
def test_files_and_the_scope(tmp_path):
    assert "all right" in output(FILES, tmp_path)
