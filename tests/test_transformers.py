"""The contract of every transformer, in float64, and a user's own in couplings and files."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import made, mlp
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras
from tfp_flows.transformers import (
    Additive,
    Affine,
    LogisticMixtureCDF,
    RationalQuadraticSpline,
    Transformer,
)
from tfp_flows.transformers.affine import SCALE_MAPS

tfd = tfp.distributions


@keras.saving.register_keras_serializable(package="tests")
class SinhArcsinh(Transformer):
    """A user's own: `y = sinh(asinh(x) * exp(a)) + power * b`."""

    num_params = 2

    def __init__(self, power):
        super().__init__(dict(locals()))
        self.power = power

    def forward(self, x, params):
        a, b = tf.unstack(params, axis=-2)
        inner = tf.asinh(x) * tf.exp(a)
        log_slope = tf.math.log(tf.cosh(inner)) + a - 0.5 * tf.math.log1p(x * x)
        return tf.sinh(inner) + self.power * b, log_slope

    def inverse(self, y, params):
        a, b = tf.unstack(params, axis=-2)
        x = tf.sinh(tf.asinh(y - self.power * b) * tf.exp(-a))
        return x, -self.forward(x, params)[1]


# name: transformer. One line here tests a new one.
TRANSFORMERS = {
    "additive": Additive(),
    **{f"affine-{scale_map}": Affine(scale_map) for scale_map in SCALE_MAPS},
    "affine-own-map": Affine(tf.math.atan),
    "spline": RationalQuadraticSpline(4),
    "spline-narrow": RationalQuadraticSpline(2, 0.7, 0.1, 0.1),
    "spline-circular": RationalQuadraticSpline(4, circular=True),
    "mixture": LogisticMixtureCDF(3),
    "mixture-of-one": LogisticMixtureCDF(1),
    "own": SinhArcsinh(2.0),
}
EVERY = pytest.mark.parametrize("transformer", TRANSFORMERS.values(), ids=TRANSFORMERS)
# From latent to data they search, which has first derivatives alone.
SEARCHES = (LogisticMixtureCDF,)
# Affine("sigmoid") starts at a scale of 0.881, whose inverse is 1.135; mixtures are near one
# logistic distribution.
NEAR = {"affine-sigmoid": 0.14, "mixture": 0.15}


def some_params(transformer, n: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.RandomState(seed).normal(size=(transformer.num_params, n)))


def entries(shape, seed: int = 1) -> tf.Tensor:
    return tf.constant(np.random.RandomState(seed).uniform(-3.0, 3.0, shape))


@EVERY
def test_round_trip_and_shapes(transformer):
    x = entries((2, 3, 5))
    params = tf.stack([some_params(transformer, 5, seed) for seed in range(6)])
    params = tf.reshape(params, [2, 3, transformer.num_params, 5])
    y, log_slope = transformer.forward(x, params)
    back, minus = transformer.inverse(y, params)
    assert y.shape == log_slope.shape == x.shape
    np.testing.assert_allclose(back, x, atol=1e-10)
    np.testing.assert_allclose(minus, -log_slope, atol=1e-9)
    for i, j in np.ndindex(2, 3):  # each entry has its own parameters
        alone, _ = transformer.forward(x[i, j], params[i, j])
        np.testing.assert_allclose(alone, y[i, j], atol=1e-12)


@EVERY
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_slope_is_that_of_autodiff(transformer, direction):
    value, params = entries(50), some_params(transformer, 50)
    with tf.GradientTape() as tape:
        tape.watch(value)
        out, log_slope = getattr(transformer, direction)(value, params)
    np.testing.assert_allclose(log_slope, tf.math.log(tape.gradient(out, value)), atol=1e-8)


@EVERY
def test_increasing(transformer):
    x = tf.linspace(tf.constant(-3.1, tf.float64), 3.1, 400)
    params = tf.repeat(some_params(transformer, 1), 400, axis=1)
    for evaluate in (transformer.forward, transformer.inverse):
        assert np.all(np.diff(evaluate(x, params)[0]) > 0)


@EVERY
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients(transformer, direction):
    """First ones against differences, second ones too, or an error."""
    value, params = entries(6, seed=2), some_params(transformer, 6)
    random = np.random.RandomState(3)
    ways = [tf.constant(random.normal(size=t.shape)) for t in (value, params)]

    def total(value, params):
        out, log_slope = getattr(transformer, direction)(value, params)
        return tf.reduce_sum(tf.sin(out)) + tf.reduce_sum(tf.cos(log_slope))

    def gradient(value, params):
        with tf.GradientTape() as tape:
            tape.watch([value, params])
            result = total(value, params)
        return tape.gradient(result, [value, params])

    def slope(value, params):
        return tf.add_n(
            [tf.reduce_sum(g * w) for g, w in zip(gradient(value, params), ways, strict=True)]
        )

    def difference(function, step=1e-6):
        ends = (function(value + s * ways[0], params + s * ways[1]) for s in (step, -step))
        return (next(ends) - next(ends)) / (2 * step)

    np.testing.assert_allclose(slope(value, params), difference(total), rtol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch([value, params])
        first = slope(value, params)
    if isinstance(transformer, SEARCHES) and direction == "forward":
        with pytest.raises(tf.errors.InvalidArgumentError, match="second derivatives"):
            tape.gradient(first, [value, params])
        return
    second = tape.gradient(first, [value, params], unconnected_gradients="zero")
    found = tf.add_n([tf.reduce_sum(g * w) for g, w in zip(second, ways, strict=True)])
    np.testing.assert_allclose(found, difference(slope), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_zeros_give_nearly_the_identity(name):
    transformer, x = TRANSFORMERS[name], entries(50)
    zeros = tf.zeros([transformer.num_params, 50], tf.float64)
    for evaluate in (transformer.forward, transformer.inverse):
        value, log_slope = evaluate(x, zeros)
        near = NEAR.get(name, 2e-3)  # softplus starts at a scale of 1.001
        assert np.all(np.abs(value - x) <= near * np.maximum(np.abs(x), 3.0))
        np.testing.assert_allclose(log_slope, np.zeros(50), atol=near)


@EVERY
def test_copies(transformer):
    x, params = entries(5), some_params(transformer, 5)
    expected, _ = transformer.forward(x, params)
    for twin in (copy.copy(transformer), copy.deepcopy(transformer)):
        assert twin is not transformer and twin.parameters == transformer.parameters
        np.testing.assert_array_equal(twin.forward(x, params)[0], expected)


def test_parameters_and_repr():
    assert SinhArcsinh(power=3.0).parameters == SinhArcsinh(3.0).get_config() == {"power": 3.0}
    assert repr(SinhArcsinh(3.0)) == "SinhArcsinh(power=3.0)"
    assert repr(Affine("clamp")) == "Affine(clamp)"
    assert repr(RationalQuadraticSpline(4)) == "RationalQuadraticSpline(4 bins in 3)"
    with pytest.raises(NotImplementedError, match=r"Transformer\.forward"):
        Transformer().forward(tf.zeros([1]), tf.zeros([0, 1]))


@pytest.mark.parametrize("bijector", [fb.Coupling, fb.MaskedAutoregressive])
@pytest.mark.parametrize("wrong", ["clamp", Affine, tf.math.atan])
def test_what_is_not_a_transformer(bijector, wrong):
    with pytest.raises(TypeError, match=r"instance of transformers\.Transformer"):
        bijector(tf.identity, wrong)


BIJECTORS = {
    "coupling": lambda transformer: fb.Coupling(mlp(1, 2 * 1, (4,)), transformer, swap=True),
    "autoregressive": lambda transformer: fb.MaskedAutoregressive(made(2, 2, (4,)), transformer),
}


@pytest.mark.parametrize("kind", BIJECTORS)
def test_own_transformer_trains_and_is_saved(kind, tmp_path):
    x = np.random.RandomState(0).normal(size=(60, 2)).astype("float32")
    x[:, 0] = np.sinh(x[:, 0] + x[:, 1])
    chain = fb.Chain([BIJECTORS[kind](SinhArcsinh(3.0)), fb.ActNorm(2)])
    model = flows.FlowModel(Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), chain))
    model.compile(keras.optimizers.Adam(0.01))
    losses = model.fit(x, batch_size=20, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for twin in (loaded.flow, copy.deepcopy(model.flow), pickle.loads(pickle.dumps(model.flow))):
        np.testing.assert_allclose(twin.log_prob(x), model.flow.log_prob(x), rtol=1e-6)
    assert "SinhArcsinh(power=3.0)" in repr(loaded.flow.bijector)


class Learned(Transformer):
    """Has a variable of its own, next to what the conditioner gives."""

    num_params = 1

    def __init__(self):
        super().__init__()
        self.log_scale = tf.Variable(0.3, name="log_scale")

    def forward(self, x, params):
        log_slope = self.log_scale + tf.zeros_like(x)
        return x * tf.exp(log_slope) + params[..., 0, :], log_slope

    def inverse(self, y, params):
        log_slope = -self.log_scale + tf.zeros_like(y)
        return (y - params[..., 0, :]) * tf.exp(log_slope), log_slope


@pytest.mark.parametrize("reversible", [False, True])
def test_variables_of_a_transformer_are_trained(reversible):
    layers = [fb.Coupling(mlp(1, 1, (4,)), Learned(), swap=s) for s in (False, True)]
    flow = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.Chain(layers, reversible))
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(flow.log_prob(tf.constant([[0.5, -2.0], [1.0, 3.0]])))
    learned = [v for v in flow.trainable_variables if "log_scale" in v.name]
    assert len(learned) == 2 and all(g is not None for g in tape.gradient(loss, learned))
