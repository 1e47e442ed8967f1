"""Two replicas train like one device: `MirroredStrategy` over two logical CPUs."""

import subprocess
import sys

import numpy as np
import pytest

TRAIN = """
import sys
import numpy as np, tensorflow as tf, tensorflow_probability as tfp

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions


def build():
    keras.utils.set_random_seed(0)
    if sys.argv[1] == "ours":
        flow = flows.real_nvp((4,), 2, (8,))
    elif sys.argv[1] == "reversible":
        flow = flows.glow((2, 2, 1), 1, 2, 4, reversible=True, seed=0)
    else:
        parts = [fb.AffineCoupling(flows.conditioners.mlp(2, 4, (8,))), fb.ActNorm(4)]
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
        flow = tfd.TransformedDistribution(base, tfb.Chain(parts))
    model = flows.FlowModel(flow)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    return model


random = np.random.RandomState(0)
x = (random.normal(size=(256, 4)) @ random.normal(size=(4, 4))).astype("float32")
models = [build()]
if sys.argv[1] == "reversible":
    x = x.reshape(-1, 2, 2, 1)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    models.append(build())
for model in models:
    history = model.fit(x, batch_size=64, epochs=2, shuffle=False, verbose=0)
    print("losses", *history.history["loss"])
"""


@pytest.mark.parametrize("kind", ["ours", "tfp", "reversible"])
def test_two_replicas_equal_one_device(kind):
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, kind], check=True, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("losses")]
    one, two = (np.array(line.split()[1:], float) for line in lines)
    assert one[1] < one[0]
    np.testing.assert_allclose(two, one, rtol=1e-5)  # sums in another order
