"""Mixture-CDF couplings against TFP's distributions, far out, and at the steps of the search."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras
from tfp_flows.solvers.root import increasing_root
from tfp_flows.transformers.mixture import Mixture, logit_cdf, mixture_of, quantile

tfd = tfp.distributions

COMPONENTS = 4
DTYPES = pytest.mark.parametrize("dtype", [tf.float32, tf.float64])


def some_params(entries: int, dtype=tf.float64, scale: float = 1.0) -> tf.Tensor:
    random = np.random.RandomState(0)
    return tf.constant(scale * random.normal(size=(3 * COMPONENTS, entries)), dtype)


def differentiated(function, value, params):
    with tf.GradientTape() as tape:
        tape.watch([value, params])
        results = function(value, mixture_of(params))
    return results, tape.gradient(results, [value, params])


def test_equals_tfp():
    value = tf.constant(np.random.RandomState(1).normal(size=200) * 3.0)
    mixture = mixture_of(some_params(200))
    of_last_axis = Mixture(*(tf.transpose(p) for p in mixture))
    reference = tfd.MixtureSameFamily(
        tfd.Categorical(of_last_axis.log_weights),
        tfd.Logistic(of_last_axis.means, tf.exp(of_last_axis.log_scales)),
    )
    logit, log_slope = logit_cdf(value, mixture)
    log_cdf, log_survival = reference.log_cdf(value), reference.log_survival_function(value)
    np.testing.assert_allclose(logit, log_cdf - log_survival, atol=1e-9)
    expected = reference.log_prob(value) - log_cdf - log_survival
    np.testing.assert_allclose(log_slope, expected, atol=1e-9)


@DTYPES
@pytest.mark.parametrize("function", [logit_cdf, quantile])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_finite_everywhere(function, scale, dtype):
    places = np.array([-1e6, -1e3, -1.0, 0.0, 1e-30, 2.0, 1e3, 1e6])
    value = tf.constant(np.repeat(places, 20), dtype)
    params = some_params(value.shape[0], dtype, scale)
    results, gradients = differentiated(function, value, params)
    for tensor in (*results, *gradients):
        assert tensor.dtype == dtype
        assert np.isfinite(tensor).all()


@DTYPES
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_search_is_as_good_as_rounding_allows(scale, dtype):
    logit = tf.constant(np.random.RandomState(1).normal(size=500) * 10.0, dtype)
    mixture = mixture_of(some_params(500, dtype, scale))
    value, log_slope = quantile(logit, mixture)
    back, again = logit_cdf(value, mixture)
    eps = np.finfo(dtype.as_numpy_dtype).eps
    # An error of half a unit in the last place of the value, and some of evaluation.
    allowed = eps * (8.0 * np.abs(logit) + 8.0 + 4.0 * np.exp(log_slope) * np.abs(value))
    assert (np.abs(back - logit) <= allowed).all()
    np.testing.assert_array_equal(log_slope, again)


def test_one_component_is_an_affine_map():
    value, params = tf.constant([-1e6, -3.0, 0.5, 1e6]), tf.constant(np.ones((3, 4)), tf.float32)
    mixture = mixture_of(params)
    expected = (value - mixture.means[0]) * tf.exp(-mixture.log_scales[0])
    logit, log_slope = logit_cdf(value, mixture)
    np.testing.assert_allclose(logit, expected, rtol=1e-6)
    np.testing.assert_allclose(log_slope, -mixture.log_scales[0], atol=1e-6)
    np.testing.assert_allclose(quantile(logit, mixture)[0], value, rtol=1e-6)


@DTYPES
def test_on_the_plateau_between_two_components(dtype):
    """Where the CDF is flat in every digit, any value in between is right, and nothing is NaN."""
    means, log_scales = tf.constant([[-50.0], [50.0]], dtype), tf.constant([[-5.0], [-5.0]], dtype)
    mixture = Mixture(tf.math.log(tf.constant([[0.5], [0.5]], dtype)), means, log_scales)
    logit = tf.constant([0.0], dtype)
    with tf.GradientTape() as tape:
        tape.watch([logit, *mixture])
        value, log_slope = quantile(logit, mixture)
    assert np.abs(value) <= 50.0 and np.isfinite(log_slope)
    assert all(np.isfinite(g).all() for g in tape.gradient(value, [logit, *mixture]))


def test_gradient_of_the_search():
    logit, params = tf.constant([-4.0, -0.3, 0.0, 2.5], tf.float64), some_params(4)
    random = np.random.RandomState(3)
    d_logit, d_params = (tf.constant(1e-6 * random.normal(size=t.shape)) for t in (logit, params))

    def loss(logit, params):
        value, log_slope = quantile(logit, mixture_of(params))
        return tf.reduce_sum(tf.sin(value)) + tf.reduce_sum(log_slope)

    with tf.GradientTape() as tape:
        tape.watch([logit, params])
        total = loss(logit, params)
    to_logit, to_params = tape.gradient(total, [logit, params])
    found = tf.reduce_sum(to_logit * d_logit) + tf.reduce_sum(to_params * d_params)
    wanted = (
        loss(logit + d_logit, params + d_params) - loss(logit - d_logit, params - d_params)
    ) / 2.0
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


def test_a_search_that_does_not_end():
    steep = lambda y: (tf.tanh(y - 3.0), tf.zeros_like(y))  # noqa: E731  # bisection alone
    ends = tf.constant([-1e3]), tf.constant([1e3]), tf.constant([0.0])
    np.testing.assert_allclose(increasing_root(steep, *ends, 1e-6), [3.0], rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not ended"):
        increasing_root(steep, *ends, 1e-6, max_steps=5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not ended"):
        tf.function(lambda: increasing_root(steep, *ends, 1e-6, max_steps=5))()
    nothing = lambda y: (y * np.nan, y)  # noqa: E731
    assert np.isnan(increasing_root(nothing, *ends, 1e-6)).all()


@pytest.mark.parametrize("components, near", [(1, 1e-6), (2, 0.1), (8, 0.15)])
def test_zeros_give_nearly_the_identity(components, near):
    net = lambda a: tf.zeros([*a.shape[:-1], 3 * components + 2])  # noqa: E731
    coupling = fb.MixtureCDFCoupling(net, components=components)
    data = tf.stack([tf.zeros([50]), tf.linspace(-4.0, 4.0, 50)], axis=-1)
    latent, log_det = coupling.inverse_and_log_det(data)
    np.testing.assert_allclose(latent, data, atol=near)
    np.testing.assert_allclose(log_det, np.zeros(50), atol=near)


def test_components_are_told_apart_in_training():
    params = tf.Variable(tf.zeros([3 * COMPONENTS, 2]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(logit_cdf(tf.constant([-2.0, 2.0]), mixture_of(params))[1])
    gradient = tape.gradient(loss, params).numpy().reshape(3, COMPONENTS, 2)
    assert (np.ptp(gradient, axis=1) > 1e-3).all()


def test_order_of_the_parameters():
    """The conditioner's output holds the first parameter of all entries, then the second, ..."""
    params = np.random.RandomState(0).normal(size=(14, 3)).astype("float32")
    coupling = fb.MixtureCDFCoupling(lambda a: tf.constant(params.reshape(1, -1)), components=4)
    data = tf.constant([[9.0, 9.0, 9.0, -1.0, 0.3, 1.2]])
    logit, _ = logit_cdf(data[0, 3:], mixture_of(tf.constant(params[:12])))
    expected = logit * tf.exp(2.0 * tf.tanh(params[12] / 2.0)) + params[13]
    np.testing.assert_allclose(coupling.inverse(data)[0, 3:], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: fb.MixtureCDFCoupling(tf.identity, components=0), "1 or more, got 0"),
        (lambda: fb.MixtureCDFCoupling(tf.identity, components=2.5), "whole number .* got 2.5"),
        (lambda: fb.MixtureCDFCoupling(mlp(2, 4, (5,))).forward(tf.zeros([1, 4])), "52 units"),
        (lambda: flows.flow_plus_plus((1,)), "2 features or more"),
        (lambda: flows.flow_plus_plus((5, 4, 1)), "must be even; got 5x4"),
        (lambda: flows.flow_plus_plus((2, 2, 1)), "one position of 2x2 images is left"),
        (
            lambda: flows.flow_plus_plus((4, 4, 1), couplings=(1, 2)),
            r"as \(4, 2, 3\); got \(1, 2\)",
        ),
        (lambda: flows.flow_plus_plus((4,), components=0), "components must be 1 or more"),
    ],
)
def test_bad_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_learns_two_clusters_that_move():
    """One layer comes near the entropy of a density that no affine coupling can model."""
    random = np.random.RandomState(0)
    a, noise = random.normal(size=(2, 2000))
    b = random.choice([-2.0, 2.0], size=2000) + 0.5 * a + 0.3 * noise
    x = np.stack([a, b], axis=-1).astype("float32")
    entropy = np.log(2 * np.pi * np.e) + np.log(0.3) + np.log(2.0)
    coupling = fb.MixtureCDFCoupling(mlp(1, 14, (16,)), components=4)
    model = flows.FlowModel(Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), coupling))
    model.compile(keras.optimizers.Adam(0.03))
    model.fit(x, batch_size=200, epochs=20, verbose=0)
    assert abs(np.mean(model.log_prob(x)) + entropy) < 0.1
    drawn = model.sample(500, seed=0).numpy()
    distances = np.abs(np.abs(drawn[:, 1] - 0.5 * drawn[:, 0]) - 2.0)
    assert np.mean(distances < 1.0) > 0.95
