"""Networks in half precision, flows in double: exact where it counts. Runs under both Keras."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from small_flows import moved

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.core import variable_paths
from tfp_flows.core.stack import networks
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model import loss_scaling as precision

HALF = pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
RANDOM = np.random.RandomState(0)
ROWS = np.tanh(RANDOM.normal(size=(256, 4)) @ RANDOM.normal(size=(4, 4)))


def trained(network_dtype, x=ROWS, dtype=tf.float32):
    keras.utils.set_random_seed(0)
    model = flows.FlowModel(
        flows.real_nvp((4,), 4, (16,), network_dtype=network_dtype, dtype=dtype)
    )
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(x, epochs=12, batch_size=32, verbose=0)
    return model, history.history["loss"]


@HALF
def test_half_precision_trains_like_single(policy, tmp_path):
    model, losses = trained(policy)
    _, expected = trained("float32")
    gain = expected[0] - expected[-1]
    assert gain > 0.5
    assert losses[-1] < expected[0] - 0.9 * gain
    assert precision.scales(model.optimizer) == (policy == "mixed_float16")
    assert all(v.dtype == tf.float32 for v in model.flow.trainable_variables)
    model.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    np.testing.assert_array_equal(loaded.log_prob(ROWS), model.log_prob(ROWS))
    loaded.fit(ROWS, verbose=0)


@HALF
def test_a_layer_is_exact_where_its_network_is_not(policy):
    """Both directions give the network the very same numbers, so its own rounding cancels."""
    coupling = moved(fb.AffineCoupling(flows.conditioners.mlp(2, 4, (16,), dtype=policy)))
    x = tf.constant(ROWS, tf.float32)
    z, ildj = coupling.inverse_and_log_det(x)
    back, fldj = coupling.forward_and_log_det(tf.identity(z))
    # One product and one sum in float32; a network in float32 would differ by 1e-3.
    np.testing.assert_allclose(back, x, atol=1e-6 * max(1.0, np.abs(z).max()))
    np.testing.assert_allclose(fldj, -ildj, atol=1e-6)


@HALF
def test_a_flow_is_as_exact_as_float32_except_where_its_networks_round_differently(policy):
    """Between layers float32 rounds, and sometimes a network rounds that to another number."""
    flow = trained(policy)[0].flow
    x = tf.constant(ROWS, tf.float32)
    z, ildj = flow.bijector.inverse_and_log_det(x, 1)
    back, fldj = flow.bijector.forward_and_log_det(tf.identity(z), 1)
    half = tf.as_dtype(policy.removeprefix("mixed_"))
    network_eps = float(ml_dtypes.finfo(half.as_numpy_dtype).eps)
    off = np.abs(back - x).max(-1), np.abs(fldj + ildj)
    for error in off:
        # Float32 after four layers for nearly all rows; which ones depends on the processor.
        assert np.quantile(error, 0.9) < 1e-5
        assert error.max() < 10 * network_eps
    assert flow.log_prob(x).dtype == tf.float32


@HALF
def test_keras_global_policy_reaches_the_networks(policy):
    before = keras.mixed_precision.global_policy() if IS_LEGACY else keras.config.dtype_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        flow = flows.glow((4, 4, 1), 1, 1, 4, seed=0)
        exact = flows.nice((4,), 2, (4,), dtype=tf.float64)
        model = flows.FlowModel(flow)
        model.compile("adam")
        x = RANDOM.normal(size=(8, 4, 4, 1)).astype("float32")
        assert np.isfinite(model.fit(x, epochs=1, verbose=0).history["loss"]).all()
    finally:
        keras.mixed_precision.set_global_policy(before)
    nets = [network.net for network in networks(flow)]
    assert {net.layers[-1].compute_dtype for net in nets} == {policy.removeprefix("mixed_")}
    assert {v.dtype for v in exact.trainable_variables} == {tf.float64}


def test_a_batch_that_is_not_finite_lowers_the_scale_and_changes_no_weight():
    model, _ = trained("mixed_float16")
    before = {n: v.numpy() for n, v in variable_paths(model.flow).items()}
    bad = ROWS.astype("float32").copy()
    bad[0, 0] = 1e30
    with pytest.warns(UserWarning, match=r"not finite.*Training stops"):
        model.fit(bad[:32], batch_size=32, verbose=0)
    for name, variable in variable_paths(model.flow).items():
        np.testing.assert_array_equal(variable, before[name])


def test_double_precision_from_end_to_end():
    """Keras would cast arrays of float64 to float32."""
    model, losses = trained(None, dtype=tf.float64)
    assert losses[-1] < losses[0]
    exact = -float(tf.reduce_mean(model.flow.log_prob(ROWS)))
    weight = np.linspace(0.5, 1.5, len(ROWS))
    weighted = -float(tf.reduce_mean(model.flow.log_prob(ROWS) * weight))
    close = dict(rtol=1e-13)
    found = model.evaluate(ROWS, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(found, exact, **close)
    found = model.evaluate(ROWS, sample_weight=weight, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(found, weighted, **close)
    np.testing.assert_allclose(model.predict(ROWS, verbose=0), model.flow.log_prob(ROWS), **close)
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(ROWS, validation_data=(ROWS, ROWS, weight), batch_size=64, verbose=0)
    np.testing.assert_allclose(history.history["loss"], exact, **close)
    np.testing.assert_allclose(history.history["val_loss"], weighted, **close)


def test_variables_are_listed_once_in_mixed_precision():
    """Listed twice, each would get two steps of the optimizer."""
    full, mixed = (flows.real_nvp((2,), 3, (4,), network_dtype=d) for d in (None, "mixed_float16"))
    names = list(variable_paths(full))
    assert list(variable_paths(mixed)) == names
    assert len(mixed.trainable_variables) == len(full.trainable_variables)
