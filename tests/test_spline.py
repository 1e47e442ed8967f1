"""Splines against TFP's in float64, at the places where quotients and roots are dangerous."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras
from tfp_flows.transformers.spline import Settings, spline

tfb, tfd = tfp.bijectors, tfp.distributions

SETTINGS = Settings(bins=5, bound=2.0, min_bin_size=1e-3, min_slope=1e-2)
DIRECTIONS = pytest.mark.parametrize("invert", [False, True], ids=["direct", "inverse"])
DTYPES = pytest.mark.parametrize("dtype", [tf.float32, tf.float64])


def numbers(entries: int, dtype=tf.float64, scale: float = 1.0) -> tf.Tensor:
    random = np.random.RandomState(0)
    return tf.constant(scale * random.normal(size=(entries, SETTINGS.numbers)), dtype)


def reference(raw: tf.Tensor) -> tfb.Bijector:
    bins, size = SETTINGS.bins, SETTINGS.min_bin_size
    widths, heights, slopes = tf.split(raw, [bins, bins, bins - 1], axis=-1)

    def sizes(logits):
        return 2 * SETTINGS.bound * (size + (1 - bins * size) * tf.nn.softmax(logits))

    offset = np.log(np.expm1(1 - SETTINGS.min_slope))
    slopes = tf.math.softplus(slopes + offset) + SETTINGS.min_slope
    return tfb.RationalQuadraticSpline(
        sizes(widths), sizes(heights), slopes, range_min=-SETTINGS.bound
    )


def differentiated(value, raw, invert: bool):
    with tf.GradientTape() as tape:
        tape.watch([value, raw])
        results = spline(value, raw, SETTINGS, invert)
    return results, tape.gradient(results, [value, raw])


@DIRECTIONS
def test_equals_tfp(invert):
    value = tf.constant(np.random.RandomState(1).uniform(-2, 2, 500))
    raw = numbers(500)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([value, raw])
        ours = spline(value, raw, SETTINGS, invert)
        theirs = reference(raw)
        if invert:
            theirs = theirs.inverse(value), theirs.inverse_log_det_jacobian(value, 0)
        else:
            theirs = theirs.forward(value), theirs.forward_log_det_jacobian(value, 0)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-10)
        expected = tape.gradient(their, [value, raw])
        for found, wanted in zip(tape.gradient(our, [value, raw]), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)


@DIRECTIONS
def test_second_derivatives(invert):
    value, raw = tf.constant([-1.3, 0.2, 1.9, 2.5], tf.float64), numbers(4)
    delta = numbers(4, scale=1e-5)

    def slope(raw):
        with tf.GradientTape() as inner:
            inner.watch(value)
            out, log_slope = spline(value, raw, SETTINGS, invert)
        return tf.reduce_sum(tf.square(inner.gradient([out, log_slope], value)))

    with tf.GradientTape() as tape:
        tape.watch(raw)
        total = slope(raw)
    found = tf.reduce_sum(tape.gradient(total, raw) * delta)
    wanted = (slope(raw + delta) - slope(raw - delta)) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@DIRECTIONS
def test_tails_are_the_identity(invert):
    value, raw = tf.constant([-1e6, -2.0, 2.0, 2.5, np.inf], tf.float64), numbers(5)
    (out, log_slope), (d_value, d_raw) = differentiated(value, raw, invert)
    np.testing.assert_array_equal(out, value)
    np.testing.assert_array_equal(log_slope, np.zeros(5))
    np.testing.assert_array_equal(d_value, np.ones(5))
    np.testing.assert_array_equal(d_raw, np.zeros(raw.shape))


@DTYPES
@DIRECTIONS
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_finite_everywhere(invert, dtype, scale):
    knots = np.linspace(-2, 2, SETTINGS.bins + 1)  # exact where the numbers are 0
    near = np.nextafter([-2.0, 2.0], 0, dtype=dtype.as_numpy_dtype)
    places = np.concatenate([knots, near, [-1e6, 1e6, 0.0]])
    value = tf.constant(np.repeat(places, 20), dtype)
    results, gradients = differentiated(value, numbers(value.shape[0], dtype, scale), invert)
    for tensor in (*results, *gradients):
        assert tensor.dtype == dtype
        assert np.isfinite(tensor).all()


@DTYPES
@DIRECTIONS
def test_knots_are_met(invert, dtype):
    raw = numbers(SETTINGS.bins + 1, dtype)[:1]
    spare = reference(raw[0])
    knots = [
        -2 + np.concatenate([[0], np.cumsum(s)]) for s in (spare.bin_widths, spare.bin_heights)
    ]
    given, wanted = knots[::-1] if invert else knots
    raw = tf.repeat(raw, len(given), axis=0)
    out, _ = spline(tf.constant(given, dtype), raw, SETTINGS, invert)
    np.testing.assert_allclose(out, wanted, atol=1e-5)


@DTYPES
def test_zeros_give_the_identity(dtype):
    value = tf.constant(np.linspace(-3, 3, 50), dtype)
    raw = tf.zeros([50, SETTINGS.numbers], dtype)
    for invert in (False, True):
        out, log_slope = spline(value, raw, SETTINGS, invert)
        np.testing.assert_allclose(out, value, atol=8 * np.finfo(dtype.as_numpy_dtype).eps)
        np.testing.assert_allclose(log_slope, 0, atol=8 * np.finfo(dtype.as_numpy_dtype).eps)


def test_round_trip_in_float32():
    value, raw = tf.constant(np.linspace(-2.5, 2.5, 500), tf.float32), numbers(500, tf.float32)
    out, log_slope = spline(value, raw, SETTINGS)
    back, minus = spline(out, raw, SETTINGS, invert=True)
    np.testing.assert_allclose(back, value, atol=1e-4)
    np.testing.assert_allclose(minus, -log_slope, atol=1e-3)


def test_order_of_the_numbers():
    """The conditioner's output holds one entry's numbers after the other's."""
    raw = numbers(3, tf.float32)
    net = lambda kept: tf.repeat(tf.reshape(raw, [1, -1]), tf.shape(kept)[0], axis=0)  # noqa: E731
    coupling = fb.SplineCoupling(net, bins=5, bound=2.0, min_slope=1e-2)
    data = tf.constant([[9.0, 9.0, 9.0, -1.0, 0.3, 1.2]])
    expected, _ = spline(data[0, 3:], raw, SETTINGS)
    np.testing.assert_allclose(coupling.inverse(data)[0, 3:], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(bins=1), "bins must be .* 2 or more, got 1"),
        (dict(bins=2.5), "bins must be a whole number .* got 2.5"),
        (dict(bound=0.0), "bound must be .* above 0, got 0.0"),
        (dict(bound=np.inf), "bound must be finite"),
        (dict(bins=10, min_bin_size=0.1), "min_bin_size .* got 0.1 for 10 bins"),
        (dict(min_bin_size=0.0), "min_bin_size must lie between 0"),
        (dict(min_slope=1.0), "min_slope must lie between 0 and 1"),
    ],
)
def test_numbers_that_make_no_spline(arguments, said):
    with pytest.raises(ValueError, match=said):
        fb.SplineCoupling(tf.identity, **arguments)


def test_width_of_the_network():
    with pytest.raises(ValueError, match="Give its last layer 46 units"):
        fb.SplineCoupling(mlp(2, 4, (5,))).forward(tf.zeros([1, 4]))


@pytest.fixture
def flow():
    parts = [fb.SplineCoupling(mlp(2, 22, (8,)), swap=i == 1, bins=4) for i in range(2)]
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
    return Flow(base, fb.Chain(parts, reversible=True))


def test_trains_by_inversion_and_saves(flow, tmp_path):
    model = flows.FlowModel(flow)
    model.compile("adam")
    x = np.random.RandomState(0).normal(size=(40, 4)).astype("float32")
    history = model.fit(x, batch_size=16, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.log_prob(x), model.log_prob(x))


def test_no_gradient_where_half_precision_is_constant():
    """A raw slope so large that its square would overflow counts as less, and so is a constant."""
    settings = Settings(4, 3.0, 1e-3, 1e-3)
    value = tf.constant(np.linspace(-2.9, 2.9, 33), tf.float16)
    raw = np.zeros([33, settings.numbers])
    raw[:, 8:] = [20.0, 40.0, 17.0]
    raw = tf.constant(raw, tf.float16)
    for invert in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(raw)
            out = sum(map(tf.reduce_sum, spline(value, raw, settings, invert)))
        np.testing.assert_array_equal(tape.gradient(out, raw)[:, 8:], 0.0)
