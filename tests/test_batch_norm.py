"""Batch normalisation in training mode, which the contract test does not cover."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.core.evaluation import current
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions

DATA = np.random.RandomState(0).normal(size=(64, 2)).astype("float32") * [3.0, 0.1] + [5.0, -1.0]
DATA = DATA.astype("float32")


class Caller(keras.layers.Layer):
    """Calls a function as a Keras model in training mode would."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def call(self, x, training=None):
        return self._function(x)


def trained(function, x):
    return Caller(function)(tf.convert_to_tensor(x), training=True)


def flow_of(*bijectors):
    return Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.Chain(list(bijectors)))


def test_one_evaluation_in_tfps_distributions():
    """In eager training too, the log-det is that of the statistics that normalised the batch."""
    norm = fb.BatchNorm(2)
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfb.Chain([norm]))
    mean, variance = tf.nn.moments(DATA, [0])
    scale = tf.sqrt(variance + 1e-4)
    expected = flow.distribution.log_prob((DATA - mean) / scale) - tf.reduce_sum(tf.math.log(scale))
    np.testing.assert_allclose(trained(flow.log_prob, DATA), expected, rtol=1e-5, atol=1e-5)
    assert float(norm.batches) == 1.0


def test_mode():
    assert not current().in_training
    seen = []
    trained(lambda x: (seen.append(current().in_training), x)[1], DATA)
    assert seen == [True]
    assert not current().in_training


def test_statistics_of_the_batch_in_training():
    norm = fb.BatchNorm(2, epsilon=1e-3)
    x, log_det = trained(norm.inverse_and_log_det, DATA)
    variance = DATA.var(axis=0)
    np.testing.assert_allclose(x, (DATA - DATA.mean(0)) / np.sqrt(variance + 1e-3), atol=1e-4)
    np.testing.assert_allclose(log_det, -0.5 * np.log(variance + 1e-3).sum(), rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_equals_tfp(training):
    layer = tf_keras.layers.BatchNormalization(epsilon=1e-3, gamma_constraint=tf.nn.relu)
    theirs = tfb.BatchNormalization(batchnorm_layer=layer, training=training)
    ours = fb.BatchNorm(2, epsilon=1e-3)
    y = tf.constant(DATA)
    theirs.inverse(y)
    for own, other in ((ours.mean, layer.moving_mean), (ours.variance, layer.moving_variance)):
        other.assign(tf.abs(other) + 0.5)
        own.assign(other)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        run = trained if training else lambda function, y: function(y)
        x, log_det = run(ours.inverse_and_log_det, y)
        x_theirs = theirs.inverse(tf.identity(y))
        log_det_theirs = theirs.inverse_log_det_jacobian(tf.identity(y), event_ndims=1)
        losses = [
            tf.reduce_sum(tf.sin(a)) + tf.reduce_sum(b)
            for a, b in ((x, log_det), (x_theirs, log_det_theirs))
        ]
    np.testing.assert_allclose(x, x_theirs, atol=1e-4)
    np.testing.assert_allclose(log_det, log_det_theirs, rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(losses[0], y), tape.gradient(losses[1], y), rtol=1e-3, atol=1e-4
    )


def test_running_averages():
    """Arithmetic at first, exponential later; samples use them."""
    norm = fb.BatchNorm(2, momentum=0.75)
    batches = DATA.reshape(8, 8, 2)
    mean = np.zeros(2)
    for count, batch in enumerate(batches, 1):
        trained(norm.inverse, batch)
        mean += (batch.mean(0) - mean) * max(1 / count, 0.25)
        np.testing.assert_allclose(norm.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.forward(tf.zeros([1, 2]))[0], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.inverse(tf.constant(mean, tf.float32)), [0, 0], atol=1e-5)


def test_a_batch_of_one_has_no_variance():
    norm = fb.BatchNorm(2)
    trained(norm.inverse, DATA)
    before = [v.numpy() for v in norm.variables]
    expected = norm.inverse(tf.constant(DATA[:1]))
    np.testing.assert_allclose(trained(norm.inverse, DATA[:1]), expected, rtol=1e-6)
    for variable, value in zip(norm.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("container", ["ours", "tfp"])
def test_no_stale_values(container):
    """The very same tensor, in training, after it, and after the averages moved."""
    norm, y = fb.BatchNorm(2), tf.constant(DATA)
    trained(norm.inverse, 0.5 * DATA)
    bijector = norm if container == "ours" else tfb.Chain([tfb.Identity(), norm])
    in_training_mode = trained(lambda _: bijector.inverse(y), y)
    after = bijector.inverse(y)
    assert not np.allclose(after, in_training_mode, atol=0.1)
    np.testing.assert_allclose(after, (DATA - norm.mean) / np.sqrt(norm.variance + 1e-4), rtol=1e-4)
    norm.mean.assign_add([1.0, 1.0])
    assert not np.allclose(bijector.inverse(y), after)
    x = trained(lambda _: bijector.inverse(y), y)
    assert not np.allclose(bijector.forward(x), y, atol=1e-3)  # by the averages again


def test_value_and_log_det_of_one_batch_in_training():
    """TFP's own distributions compute them one after the other."""
    norm = fb.BatchNorm(2)
    distribution = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), norm)
    log_prob = trained(distribution.log_prob, DATA)
    assert float(norm.batches) == 1
    x, log_det = trained(norm.inverse_and_log_det, DATA)
    expected = tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(x), -1) + log_det
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_evaluate_and_save(jit_compile, tmp_path):
    net = mlp(1, 2, (8,))
    flow = flow_of(fb.BatchNorm(2), fb.AffineCoupling(net), fb.ActNorm(2))
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    history = model.fit(DATA, epochs=20, batch_size=32, verbose=0, validation_data=(DATA,)).history
    first = flow.bijector.bijectors[0]
    assert float(first.batches) == 2 * 20 + 1  # the initialisation of ActNorm is one
    np.testing.assert_allclose(first.mean, DATA.mean(0), rtol=0.05)
    np.testing.assert_allclose(first.variance, DATA.var(0), rtol=0.1)
    assert history["val_loss"][-1] == pytest.approx(history["loss"][-1], abs=0.1)
    before = first.mean.numpy()
    loss = model.evaluate(DATA, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(loss, -np.mean(model.log_prob(DATA)), rtol=1e-5)
    np.testing.assert_array_equal(first.mean, before)
    assert not any("mean" in v.name for v in model.trainable_variables)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.log_prob(DATA), model.log_prob(DATA))


def test_repeat_and_reversible_chains_reject_it():
    for bijector, said in (
        (
            fb.Repeat(fb.Chain([fb.BatchNorm(2), fb.Householder(2)]), 2),
            "updates mean.* as batch normalisation does",
        ),
        (fb.Chain([fb.BatchNorm(2), fb.QRLinear(2)], reversible=True), "trained by inversion"),
    ):
        model = flows.FlowModel(flow_of(bijector))
        model.compile("adam")
        with pytest.raises(ValueError, match=said):
            model.fit(DATA, verbose=0)


def test_messages():
    for make, said in (
        (lambda: fb.BatchNorm(2, momentum=1.0), "momentum must be in"),
        (lambda: fb.BatchNorm(2, epsilon=0.0), "epsilon must be above 0"),
        (lambda: fb.BatchNorm(2).inverse(tf.zeros([3, 4])), "was made for .2,."),
    ):
        with pytest.raises(ValueError, match=said):
            make()
