"""The switches for debugging: Keras's `run_eagerly` and TensorFlow's eager functions."""

import contextlib

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from cases import each

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp, vector_field
from tfp_flows.keras_engine import keras

tfd = tfp.distributions

RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(16, 2)).astype("float32")
C = RANDOM.normal(size=(16, 1)).astype("float32")
IMAGES = RANDOM.uniform(size=(8, 4, 4, 1)).astype("float32")


def regularised():
    net = keras.Sequential(
        [keras.layers.Input((1,)), keras.layers.Dense(2, kernel_regularizer="l2")]
    )
    repeat = fb.Repeat(fb.AffineCoupling(net), 3)
    return tfd.TransformedDistribution(standard_normal(), repeat)


def standard_normal():
    return tfd.Sample(tfd.Normal(0.0, 1.0), 2)


def penalised(reversible: bool = False):
    net = vector_field(2, (4,))
    step = fb.ContinuousFlow(net, solver="fixed", num_steps=2, kinetic_penalty=0.1)
    repeat = fb.Repeat(step, 2, reversible=reversible)
    return tfd.TransformedDistribution(standard_normal(), repeat)


def estimated():
    """Noise of the step in the traces, and an adaptive solver, whose gradient solves again."""
    net = vector_field(2, (4,))
    bijector = fb.ContinuousFlow(net, trace="hutchinson", rtol=1e-4, atol=1e-4)
    return tfd.TransformedDistribution(standard_normal(), bijector)


def batch_normalised():
    bijector = fb.Chain([fb.BatchNorm(2, momentum=0.5), fb.AffineCoupling(mlp(1, 2, (4,)))])
    return tfd.TransformedDistribution(standard_normal(), bijector)


CASES = {
    "stacked": (lambda: flows.maf((2,), layers=3, hidden=(4,), seed=0), X),
    "reversible": (lambda: flows.glow((4, 4, 1), 1, 2, 2, seed=0), IMAGES),
    "context": (lambda: flows.real_nvp((2,), 2, (4,), context_shape=(1,)), (X, C)),
    "penalties": (penalised, X),
    "penalties, reversible": (lambda: penalised(reversible=True), X),
    "noise": (estimated, X),
    "batch normalisation": (batch_normalised, X),
    "regularisers": (regularised, X),
}


@contextlib.contextmanager
def eager_functions():
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@each(CASES, quick=lambda name: name in ("stacked", "context", "batch normalisation"))
def test_training_is_as_in_graphs(name):
    build, x = CASES[name]
    losses = []
    for eagerly, within in (
        (False, contextlib.nullcontext()),
        (True, contextlib.nullcontext()),
        (False, eager_functions()),
    ):
        keras.utils.set_random_seed(1)
        model = flows.FlowModel(build())
        model.compile(keras.optimizers.SGD(1e-2), run_eagerly=eagerly)
        with within:
            history = model.fit(x, batch_size=8, epochs=2, shuffle=False, verbose=0)
            losses.append(history.history["loss"])
            assert np.isfinite(model.evaluate(x, verbose=0, return_dict=True)["loss"])
    for other in losses[1:]:  # the same sums in another order
        np.testing.assert_allclose(other, losses[0], rtol=1e-4)


def test_samples_and_gradients_with_eager_functions():
    model = flows.FlowModel(flows.real_nvp((2,), layers=4, hidden=(4,)))
    flows.initialize(model.flow, X)
    expected = model.log_prob(X), model.sample(4, seed=0)
    with eager_functions():
        fresh = flows.FlowModel(model.flow)
        np.testing.assert_allclose(fresh.log_prob(X), expected[0], rtol=1e-5)
        np.testing.assert_allclose(fresh.sample(4, seed=0), expected[1], rtol=1e-4, atol=1e-5)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(model.flow.log_prob(X))
        gradients = tape.gradient(loss, model.flow.trainable_variables)
    assert all(g is not None and np.isfinite(g).all() for g in gradients)


class OwnLayer(keras.layers.Layer):
    """A layer of a user's own, around a bijector that acts otherwise in training."""

    def __init__(self, bijector, **kwargs):
        super().__init__(**kwargs)
        self.bijector = bijector

    def call(self, x):
        return self.bijector.inverse(x)


def test_own_layers_train_as_in_graphs():
    averages = []
    for eagerly in (False, True):
        norm = fb.BatchNorm(2, momentum=0.0)
        model = keras.Sequential([keras.layers.Input((2,)), OwnLayer(norm), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-2), "mse", run_eagerly=eagerly)
        model.fit(X, X[:, :1], batch_size=16, epochs=1, verbose=0)
        averages.append((norm.mean.numpy(), norm.variance.numpy()))
        before = norm.mean.numpy()
        model.evaluate(X + 1.0, X[:, :1], verbose=0)  # not in training mode
        np.testing.assert_array_equal(norm.mean, before)
    np.testing.assert_allclose(averages[0][0], X.mean(0), rtol=1e-4, atol=1e-6)
    for a, b in zip(*averages, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
