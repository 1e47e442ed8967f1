"""Values, contexts and sample shapes of unknown rank in a trace."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small_flows import moved, small

import tfp_flows as flows
from tfp_flows import bijectors as fb

tfd = tfp.distributions

ANY = tf.TensorSpec(None, tf.float32)
SHAPE = tf.TensorSpec([None], tf.int32)
X = tf.constant(np.random.RandomState(0).normal(size=(4, 3, 2)), tf.float32)
C = tf.constant(np.random.RandomState(1).normal(size=(4, 3, 1)), tf.float32)


def traced(function, *specs):
    return tf.function(function, input_signature=specs, autograph=False)


@pytest.fixture(scope="module")
def pair():
    return small(), small((1,))


def test_densities(pair):
    flow, given = pair
    log_prob = traced(flow.log_prob, ANY)
    for x in (X, X[0], X[0, 0]):
        np.testing.assert_allclose(log_prob(x), flow.log_prob(x), rtol=1e-5)
    both = traced(lambda x, c: given.log_prob(x, context=c), ANY, ANY)
    conditioned = traced(lambda x, c: given.condition(c).log_prob(x), ANY, ANY)
    for x, c in ((X, C), (X[0], C), (X, C[0]), (X[0, 0], C), (X, C[0, 0])):
        expected = given.log_prob(x, context=c)
        np.testing.assert_allclose(both(x, c), expected, rtol=1e-5)
        np.testing.assert_allclose(conditioned(x, c), expected, rtol=1e-5)
    for known in (C, C[0]):
        found = traced(lambda x, c=known: given.log_prob(x, context=c), ANY)(X)
        np.testing.assert_allclose(found, given.log_prob(X, context=known), rtol=1e-5)


def test_gradients(pair):
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(pair[0].log_prob(x))
        return tape.gradient(loss, [x, *pair[0].trainable_variables])

    for a, b in zip(traced(gradient, ANY)(X), gradient(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [[], [5], [5, 2]])
def test_samples(pair, shape):
    flow, given = pair
    draws = traced(lambda n: flow.sample(n, seed=[0, 1]), SHAPE)(shape)
    assert draws.shape == [*shape, 2]
    draws, log_prob = traced(
        lambda n: flow.experimental_sample_and_log_prob(n, seed=[0, 1]), SHAPE
    )(shape)
    np.testing.assert_allclose(log_prob, flow.log_prob(draws), rtol=1e-4, atol=1e-4)
    draws = traced(lambda n, c: given.condition(c).sample(n, seed=[0, 1]), SHAPE, ANY)(shape, C)
    assert draws.shape == [*shape, 4, 3, 2]
    draws, log_prob = traced(
        lambda n, c: given.experimental_sample_and_log_prob(n, context=c, seed=[0, 1]), SHAPE, ANY
    )([*shape, 4, 3], C)
    expected = given.log_prob(draws, context=C)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


def test_a_base_with_batch_dimensions():
    base = tfd.Independent(tfd.Normal(tf.constant([[0.0, 1.0], [5.0, 6.0]]), 1.0), 1)
    flow = flows.distributions.Flow(base, moved(fb.ActNorm(2)))
    found = traced(flow.log_prob, ANY)(X[:, :2])
    np.testing.assert_allclose(found, flow.log_prob(X[:, :2]), rtol=1e-5)
    assert traced(lambda n: flow.sample(n, seed=[0, 1]), SHAPE)([3, 4]).shape == [3, 4, 2, 2]


def test_pixels():
    uniform = tfd.Independent(tfd.Uniform([-0.5, -0.5], [0.5, 0.5]), 1)
    pixels = flows.Dequantized(uniform, levels=8)
    values = np.array([[[0, 7], [1, 2]]])
    log_prob = traced(lambda x: pixels.log_prob(x, seed=[0, 1]), tf.TensorSpec(None, tf.int32))
    np.testing.assert_allclose(log_prob(values), np.full([1, 2], -2 * np.log(8.0)), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="takes whole pixels"):
        log_prob(values + 8)
    assert traced(lambda n: pixels.sample(n, seed=[0, 1]), SHAPE)([3, 4]).shape == [3, 4, 2]


@pytest.mark.parametrize("wrong", [X[..., :1], tf.zeros([]), tf.zeros([6]), tf.zeros([2, 1])])
def test_other_events_are_an_error(pair, wrong):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"takes tensors with the last"):
        traced(pair[0].log_prob, ANY)(wrong)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"takes tensors with the last"):
        traced(lambda x, c: pair[1].log_prob(x, context=c), ANY, ANY)(X, tf.zeros([4, 3, 2]))


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_bijectors(direction):
    """Where the size of the event does not matter; else it is asked for by name."""
    norm = moved(fb.ActNorm(2))
    for bijector in (norm, fb.Invert(norm), fb.Chain([norm, tfp.bijectors.Scale(2.0)])):
        both = getattr(bijector, f"{direction}_and_log_det")
        value, log_det = traced(lambda x, f=both: f(x, event_ndims=2), ANY)(X)
        for a, b in zip((value, log_det), both(X, event_ndims=2), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    coupling = fb.AdditiveCoupling(lambda a: a)
    with pytest.raises(ValueError, match="needs static event dimensions"):
        traced(getattr(coupling, direction), ANY)(X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="takes tensors with the last"):
        traced(getattr(norm, direction), ANY)(tf.zeros([]))
