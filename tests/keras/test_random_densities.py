"""Files of flows whose log-probability is a noisy estimate. Runs under Keras 3 and tf_keras."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import each
from served_flows import PIXELS, ROWS, mixture

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions


@keras.saving.register_keras_serializable(package="tests")
class OwnNoise(tfd.Distribution):
    """Draws from TensorFlow's global generator, whatever the seed."""

    def __init__(self, loc, name="own_noise"):
        parameters = dict(locals())
        self._loc = loc
        super().__init__(
            tf.float32, tfd.NOT_REPARAMETERIZED, True, True, parameters=parameters, name=name
        )

    def get_config(self):  # Keras registers no class without
        raise NotImplementedError

    def _event_shape(self):
        return self._loc.shape

    def _batch_shape(self):
        return tf.TensorShape([])

    def _log_prob(self, x):
        return -tf.reduce_sum((x - self._loc) ** 2, -1) + tf.random.uniform(tf.shape(x)[:-1])

    def _sample_n(self, n, seed=None):
        noise = tf.random.stateless_normal(tf.concat([[n], self._loc.shape], 0), seed)
        return self._loc + noise


@keras.saving.register_keras_serializable(package="tests")
class Forgetful(tfb.Shift):
    """Its configuration has no shift."""

    def __init__(self, shift=0.0, name="forgetful"):
        super().__init__(shift, name=name)
        self._parameters = {"name": name}

    def get_config(self):
        raise NotImplementedError


def residual(*more):
    flow = flows.residual((3,), layers=1, hidden=(4,), log_det="unbiased")
    return Flow(flow.distribution, fb.Chain([*more, flow.bijector])) if more else flow


FLOWS = {
    "residual": residual,
    "pixels": lambda: flows.Dequantized(
        flows.glow((4, 4, 1), 1, 1, 4), 8, dequantizer=flows.dequantizer((4, 4, 1))
    ),
    "pixels without a bijector": lambda: flows.Dequantized(mixture(), levels=8),
    "own noise": lambda: OwnNoise(tf.Variable([1.0, 2.0, 3.0])),
}


def model_of(name):
    flow = FLOWS[name]()
    whole = PIXELS if flow.event_shape.rank == 3 else np.clip(np.round(ROWS), 0, 7)
    x = tf.cast(whole, flow.dtype)
    flows.initialize(flow, x)
    return flows.FlowModel(flow), x


@each(FLOWS, quick=lambda name: name == "residual")
def test_saving_and_serving(name, tmp_path):
    model, x = model_of(name)
    assert not np.array_equal(model.log_prob(x), model.log_prob(x))
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    expected = model.sample(4, seed=3)
    np.testing.assert_array_equal(loaded.sample(4, seed=3), expected)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    assert set(served) <= {"serving_default", "log_prob", "sample", "encode", "decode"}
    once, twice = (served["log_prob"](x=x)["log_prob"] for _ in range(2))
    assert np.isfinite(once).all() and not np.array_equal(once, twice)  # not of one fixed seed
    arguments = {"n": tf.constant(4), "seed": tf.constant([3, 0])}
    if "encode" in served:
        arguments["temperature"] = tf.constant(1.0)
    np.testing.assert_allclose(served["sample"](**arguments)["sample"], expected, atol=1e-4)


def test_saving_fails_where_the_file_differs(tmp_path):
    model = flows.FlowModel(residual(Forgetful(0.5)))
    with pytest.raises(RuntimeError, match=r"differs by .* in seeded_log_prob"):
        model.save(tmp_path / "flow.keras")
    assert list(tmp_path.iterdir()) == []
