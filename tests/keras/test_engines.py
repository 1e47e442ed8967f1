"""Keras 3 and tf_keras train the same flow from the same start to the same loss."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tfp_flows.keras_engine import require_version

TRAIN = """
import sys
import numpy as np, tensorflow as tf
import tfp_flows as flows
from tfp_flows.core import variable_paths
from tfp_flows.keras_engine import IS_LEGACY, keras

random = np.random.RandomState(0)
x = (random.normal(size=(512, 4)) @ random.normal(size=(4, 4)) + 1.0).astype("float32")
flow = flows.real_nvp((4,), layers=4, hidden=(16, 16))
for name, variable in variable_paths(flow).items():  # one start for both engines
    if variable.trainable:
        variable.assign(0.2 * random.normal(size=variable.shape))
flows.initialize(flow, x)
model = flows.FlowModel(flow)
model.compile(optimizer=keras.optimizers.Adam(3e-3, epsilon=1e-7), jit_compile=False)
history = model.fit(x, epochs=8, batch_size=64, shuffle=False, verbose=0)
print("legacy" if IS_LEGACY else "keras3", *history.history["loss"])
"""


def train(legacy: bool) -> tuple[str, np.ndarray]:
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1" if legacy else "0"}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], env=environment, check=True, capture_output=True, text=True
    )
    engine, *losses = done.stdout.splitlines()[-1].split()
    return engine, np.array(losses, float)


def test_both_engines_reach_the_same_loss():
    (new, ours), (old, theirs) = train(False), train(True)
    assert (new, old) == ("keras3", "legacy")
    assert ours[-1] < ours[0] - 0.1
    # The engines' Adam places epsilon differently; 1e-3 nats is far below what training gains.
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_versions_that_would_not_train_raise():
    require_version("3.10.0", "keras", "3.10")
    require_version("4.0.0.dev1", "keras", "3.10")
    with pytest.raises(ImportError, match=r"needs keras 3\.10 or later, found 3\.9\.2"):
        require_version("3.9.2", "keras", "3.10")
