"""Every family trains under `fit`, and is the same after saving and serving, with context or not.

Runs under Keras 3 and tf_keras.
"""

import numpy as np
import pytest
import tensorflow as tf
from small_flows import READY_MADE

import tfp_flows as flows
from tfp_flows.keras_engine import keras

N = 64
RANDOM = np.random.RandomState(0)
ROWS = RANDOM.normal(size=(N, 3)).astype(np.float32)
IMAGES = RANDOM.normal(size=(N, 4, 4, 1)).astype(np.float32)
CONTEXTS = RANDOM.normal(size=(N, 2)).astype(np.float32)

# `{name: context_shape -> flow}`
FAMILIES = {n: lambda c, make=make: make(context_shape=c) for n, make in READY_MADE.items()}


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "context"])
@pytest.mark.parametrize("name", FAMILIES)
def test_trains_saves_and_serves(name, conditional, tmp_path):
    flow = FAMILIES[name](2 if conditional else None)
    x = IMAGES if len(flow.event_shape) == 3 else ROWS
    given = {"context": CONTEXTS} if conditional else {}
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.Adam(1e-2))
    flows.initialize(flow, x, **given)
    before = [v.numpy() for v in flow.trainable_variables]
    first = model.evaluate((x, CONTEXTS) if conditional else x, verbose=0, return_dict=True)
    model.fit((x, CONTEXTS) if conditional else x, epochs=4, batch_size=32, verbose=0)
    last = model.evaluate((x, CONTEXTS) if conditional else x, verbose=0, return_dict=True)
    assert last["loss"] < first["loss"]
    still = [
        v.name
        for v, old in zip(flow.trainable_variables, before, strict=True)
        if np.array_equal(v, old)
    ]
    assert still == []

    expected = model.log_prob(x, **given)
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(loaded.log_prob(x, **given), expected, rtol=1e-5, atol=1e-5)
    samples = model.sample(N, seed=3, **given)
    np.testing.assert_allclose(loaded.sample(N, seed=3, **given), samples, rtol=1e-4, atol=1e-4)
    latent = model.encode(samples, **given)
    np.testing.assert_allclose(model.decode(latent, **given), samples, rtol=1e-3, atol=1e-3)

    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    tensors = {"x": x, **given}
    served_log_prob = served(**{k: tf.constant(v) for k, v in tensors.items()})["log_prob"]
    np.testing.assert_allclose(served_log_prob, expected, rtol=1e-4, atol=1e-4)
    few = {k: tf.constant(v[:2]) for k, v in tensors.items()}
    np.testing.assert_allclose(served(**few)["log_prob"], expected[:2], rtol=1e-4, atol=1e-4)
