"""Variational and importance-weighted dequantisation, against exact log-probabilities."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.distributions import Flow
from tfp_flows.distributions.initialization import needs_initialization
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions

LEVELS = 3


def peaked(scale=0.1) -> tfd.Distribution:
    """Two pixels, each with a density that is far from flat within a bin."""
    return tfd.Independent(tfd.Logistic([0.1, -0.2], [scale, 2 * scale]), 1)


def exact(flow: tfd.Distribution, pixels, levels=LEVELS) -> np.ndarray:
    edges = [(np.asarray(pixels, np.float32) + i) / levels - 0.5 for i in (0, 1)]
    low, high = (flow.distribution.cdf(e) for e in edges)
    return tf.reduce_sum(tf.math.log(high - low), -1).numpy()


def every_pixel(levels=LEVELS) -> tf.Tensor:
    return tf.constant(np.indices([levels, levels]).reshape(2, -1).T, tf.int32)


def disturbed_dequantizer(shape=(2,), **kwargs) -> Flow:
    """A dequantiser that is far from uniform noise."""
    noise = flows.dequantizer(shape, layers=2, hidden=8, components=2, **kwargs)
    random = np.random.RandomState(0)
    for v in noise.trainable_variables:
        v.assign_add(0.1 * random.normal(size=v.shape))
    return noise


@pytest.mark.parametrize("learned", [False, True], ids=["uniform", "variational"])
def test_bounds_against_the_truth(learned):
    flow = peaked()
    noise = disturbed_dequantizer() if learned else None
    x = tf.repeat(every_pixel(), 400, axis=0)
    truth = exact(flow, every_pixel())

    def mean_bound(**kwargs):
        pixels = flows.Dequantized(flow, LEVELS, dequantizer=noise, **kwargs)
        bound = tf.reshape(pixels.log_prob(x, seed=[1, 2]), [LEVELS**2, 400])
        return tf.reduce_mean(bound, axis=1).numpy()

    plain = mean_bound()
    average = mean_bound(num_samples=8)
    weighted = mean_bound(num_samples=8, importance_weighted=True)
    assert (plain < truth).all()
    assert np.abs(average - plain).max() < 0.25 * (truth - plain).max()  # quieter, not tighter
    assert (weighted > average).all()
    assert (weighted < truth + 0.03).all()
    # Many draws find the exact log-probability: so the density of the noise is right.
    many = mean_bound(num_samples=256, importance_weighted=True)
    np.testing.assert_allclose(many, truth, atol=0.05)


def test_starts_close_to_uniform_noise():
    noise = flows.dequantizer((4, 4, 2), layers=4, hidden=8)
    image = tf.random.uniform([300, 4, 4, 2], -0.5, 0.5, seed=0)
    u, log_q = noise.experimental_sample_and_log_prob(300, seed=[1, 2], context=image)
    assert float(tf.reduce_min(u)) > 0.0 and float(tf.reduce_max(u)) < 1.0
    assert abs(float(tf.reduce_mean(log_q)) / 32) < 0.02  # nats for each pixel
    np.testing.assert_allclose(tf.reduce_mean(u), 0.5, atol=0.02)
    np.testing.assert_allclose(tf.math.reduce_std(u), math.sqrt(1 / 12), atol=0.02)


def test_training_the_dequantizer_tightens_the_bound():
    flow = peaked(0.03)
    noise = flows.dequantizer((2,), layers=2, hidden=16)
    pixels = flows.Dequantized(flow, LEVELS, dequantizer=noise)
    assert {id(v) for v in noise.trainable_variables} == {id(v) for v in pixels.trainable_variables}
    x = np.repeat([[1, 0], [2, 1], [1, 1]], 100, axis=0)
    truth = exact(flow, x).mean()
    uniform = float(tf.reduce_mean(flows.Dequantized(flow, LEVELS, 50).log_prob(x)))
    model = flows.FlowModel(pixels)
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(x, batch_size=100, epochs=30, verbose=0)
    trained = float(tf.reduce_mean(pixels.copy(num_samples=50).log_prob(x)))
    assert truth - trained < 0.2 * (truth - uniform)
    assert trained < truth + 0.05


def test_trains_with_the_flow_and_saves(tmp_path):
    flow = flows.real_nvp((4,), layers=1, hidden=(4,))
    noise = flows.dequantizer((4,), layers=1, hidden=4, components=2)
    pixels = flows.Dequantized(flow, 5, dequantizer=noise)
    model = flows.FlowModel(pixels)
    x = np.random.RandomState(0).randint(5, size=(40, 4))
    model.compile("adam")
    before = [v.numpy() for v in (*flow.trainable_variables, *noise.trainable_variables)]
    model.fit(x, batch_size=20, epochs=2, verbose=0)
    after = [v.numpy() for v in (*flow.trainable_variables, *noise.trainable_variables)]
    moved = [np.any(a != b) for a, b in zip(before, after, strict=True)]
    assert np.mean(moved) > 0.8 and any(moved[len(flow.trainable_variables) :])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").flow
    np.testing.assert_array_equal(loaded.log_prob(x, seed=[1, 2]), pixels.log_prob(x, seed=[1, 2]))


def test_copies_share_the_variables():
    pixels = flows.Dequantized(peaked(), LEVELS, dequantizer=flows.dequantizer((2,), 1, 4))
    twin = pixels.copy(num_samples=3, importance_weighted=True)
    assert {id(v) for v in twin.variables} == {id(v) for v in pixels.variables}
    assert twin.log_prob([[0, 1]]).shape == [1]


@pytest.mark.parametrize("num_samples, learned", [(1, False), (7, False), (7, True)])
def test_contexts(num_samples, learned):
    flow = flows.real_nvp((2,), layers=1, hidden=(4,), context_shape=(3,))
    noise = disturbed_dequantizer() if learned else None
    pixels = flows.Dequantized(flow, LEVELS, num_samples, noise)
    assert pixels.context_shape == (3,) and pixels.context_dtype == tf.float32
    x, context = tf.zeros([5, 2], tf.int32), tf.random.normal([5, 3], seed=0)
    assert pixels.log_prob(x, context=context).shape == [5]
    assert pixels.log_prob(x, context=context[0]).shape == [5]
    assert pixels.log_prob(x[0], context=context).shape == [5]
    assert pixels.log_prob(x[:, tf.newaxis], context=context[:4]).shape == [5, 4]
    in_graph = tf.function(
        lambda x, c: pixels.log_prob(x, seed=[1, 2], context=c),
        input_signature=[tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([None, 3])],
    )
    np.testing.assert_allclose(
        in_graph(x, context), pixels.log_prob(x, seed=[1, 2], context=context), rtol=1e-5
    )
    given = pixels.condition(context)
    assert given.batch_shape == [5] and given.sample(4, seed=0).shape == [4, 5, 2]
    assert given.log_prob(x).shape == [5]
    assert pixels.sample([4, 5], seed=0, context=context).shape == [4, 5, 2]
    with pytest.raises(ValueError, match="needs a context"):
        pixels.log_prob(x)
    with pytest.raises(ValueError, match=r"\(..., 3\), got \(5, 2\)"):
        pixels.log_prob(x, context=context[:, :2])
    with pytest.raises(ValueError, match="without a context"):
        flows.Dequantized(peaked(), LEVELS).log_prob(x, context=context)


def test_actnorm_of_a_dequantizer_is_initialised():
    norm, inner = fb.ActNorm(2), fb.ActNorm(2)
    base = tfd.Sample(tfd.Logistic(0.0, 1.0), 2)
    noise = Flow(base, fb.Chain([tfb.Sigmoid(), norm]), context_shape=(2,))
    flow = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), inner)
    pixels = flows.Dequantized(flow, LEVELS, dequantizer=noise)
    flows.initialize(pixels, tf.repeat(every_pixel(), 100, axis=0))
    assert not needs_initialization(pixels)
    np.testing.assert_allclose(norm.scale, [math.pi / math.sqrt(3)] * 2, rtol=0.1)
    np.testing.assert_allclose(inner.loc, [0.0, 0.0], atol=0.02)


@pytest.mark.parametrize(
    "make, error, said",
    [
        (
            lambda: flows.dequantizer((3,)),
            ValueError,
            r"event_shape=\(2,\).*got event_shape=\(3,\)",
        ),
        (lambda: flows.dequantizer((2,), dtype=tf.float64), ValueError, "float32; got .*float64"),
        (lambda: flows.real_nvp((2,), 2, (4,)), ValueError, "context_shape=None"),
        (lambda: peaked(), TypeError, "flows.dequantizer makes it; got Independent"),
        (lambda: flows.dequantizer((1,)), ValueError, "2 features or more"),
        (lambda: flows.dequantizer((1, 1, 3)), ValueError, "two positions"),
    ],
)
def test_bad_dequantizers(make, error, said):
    with pytest.raises(error, match=said):
        flows.Dequantized(peaked(), LEVELS, dequantizer=make())


@pytest.mark.parametrize(
    "dtype, levels",
    [
        (tf.float16, 2),
        (tf.float16, 255),
        (tf.float16, 256),
        (tf.float16, 512),
        (tf.float32, 3),
        (tf.float32, 65535),
        (tf.float32, 65536),
        (tf.float64, 65536),
    ],
)
def test_values_stay_in_their_bins(dtype, levels):
    base = tfd.Sample(tfd.Normal(tf.constant(0.0, dtype), tf.constant(1.0, dtype)), 1)
    pixels = flows.Dequantized(base, levels)
    random = np.random.RandomState(0)
    i = random.randint(levels, size=(5000, 1))
    i[:100], i[100:200] = 0, levels - 1
    noise = tf.constant(random.choice([0.0, 1.0, 0.5, 0.999, 0.001], size=i.shape), dtype)
    values = pixels.dequantize(i, noise)
    np.testing.assert_array_equal(pixels.quantize(values), i)
    assert float(tf.reduce_max(tf.abs(values))) < 0.5  # where a sigmoid has no latent


def test_too_many_levels_for_a_dtype():
    base = tfd.Sample(tfd.Normal(np.float16(0), np.float16(1)), 1)
    with pytest.raises(ValueError, match=r"float16 distinguishes at most 512 levels.*1024"):
        flows.Dequantized(base, 1024)


def test_nan_is_not_a_pixel():
    pixels = flows.Dequantized(peaked(), LEVELS)
    np.testing.assert_array_equal(pixels.quantize([np.inf, -np.inf]), [LEVELS - 1, 0])
    with pytest.raises(ValueError, match=r"NaN is not a pixel.* 1 of 2"):
        pixels.quantize([np.nan, 0.2])
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN is not a pixel"):
        tf.function(pixels.quantize)(tf.constant([np.nan, 0.2]))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "float16", "float64"])
def test_pixels_of_any_dtype(dtype):
    pixels = flows.Dequantized(peaked(), LEVELS)
    expected = pixels.log_prob([[0, 2]], seed=[1, 2])
    found = pixels.log_prob(tf.cast([[0, 2]], dtype), seed=[1, 2])
    np.testing.assert_array_equal(found, expected)
