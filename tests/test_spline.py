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
from tfp_flows.transformers import RationalQuadraticSpline

tfb, tfd = tfp.bijectors, tfp.distributions

BINS, BOUND, MIN_SIZE, MIN_SLOPE = 5, 2.0, 1e-3, 1e-2
SPLINE = RationalQuadraticSpline(BINS, BOUND, MIN_SIZE, MIN_SLOPE)
DIRECTIONS = pytest.mark.parametrize("invert", [False, True], ids=["direct", "inverse"])
DTYPES = pytest.mark.parametrize("dtype", [tf.float32, tf.float64])


def evaluate(value, params, invert: bool, transformer=SPLINE):
    """The spline itself goes from data to latent."""
    return transformer.forward(value, params) if invert else transformer.inverse(value, params)


def some_params(entries: int, dtype=tf.float64, scale: float = 1.0) -> tf.Tensor:
    values = np.random.RandomState(0).normal(size=(entries, SPLINE.num_params))
    return tf.constant(scale * values.T, dtype)


def reference(params: tf.Tensor) -> tfb.Bijector:
    widths, heights, slopes = tf.split(tf.transpose(params), [BINS, BINS, BINS - 1], axis=-1)

    def sizes(logits):
        return 2 * BOUND * (MIN_SIZE + (1 - BINS * MIN_SIZE) * tf.nn.softmax(logits))

    slopes = tf.math.softplus(slopes + np.log(np.expm1(1 - MIN_SLOPE))) + MIN_SLOPE
    return tfb.RationalQuadraticSpline(sizes(widths), sizes(heights), slopes, range_min=-BOUND)


def differentiated(value, params, invert: bool):
    with tf.GradientTape() as tape:
        tape.watch([value, params])
        results = evaluate(value, params, invert)
    return results, tape.gradient(results, [value, params])


@DIRECTIONS
def test_equals_tfp(invert):
    value = tf.constant(np.random.RandomState(1).uniform(-2, 2, 500))
    params = some_params(500)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([value, params])
        ours = evaluate(value, params, invert)
        theirs = reference(params)
        if invert:
            theirs = theirs.inverse(value), theirs.inverse_log_det_jacobian(value, 0)
        else:
            theirs = theirs.forward(value), theirs.forward_log_det_jacobian(value, 0)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-10)
        expected = tape.gradient(their, [value, params])
        for found, wanted in zip(tape.gradient(our, [value, params]), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)


@DIRECTIONS
def test_second_derivatives(invert):
    value, params = tf.constant([-1.3, 0.2, 1.9, 2.5], tf.float64), some_params(4)
    delta = some_params(4, scale=1e-5)

    def slope(params):
        with tf.GradientTape() as inner:
            inner.watch(value)
            out, log_slope = evaluate(value, params, invert)
        return tf.reduce_sum(tf.square(inner.gradient([out, log_slope], value)))

    with tf.GradientTape() as tape:
        tape.watch(params)
        total = slope(params)
    found = tf.reduce_sum(tape.gradient(total, params) * delta)
    wanted = (slope(params + delta) - slope(params - delta)) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@DIRECTIONS
def test_tails_are_the_identity(invert):
    value, params = tf.constant([-1e6, -2.0, 2.0, 2.5, np.inf], tf.float64), some_params(5)
    (out, log_slope), (d_value, d_params) = differentiated(value, params, invert)
    np.testing.assert_array_equal(out, value)
    np.testing.assert_array_equal(log_slope, np.zeros(5))
    np.testing.assert_array_equal(d_value, np.ones(5))
    np.testing.assert_array_equal(d_params, np.zeros(params.shape))


@DTYPES
@DIRECTIONS
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_finite_everywhere(invert, dtype, scale):
    knots = np.linspace(-2, 2, BINS + 1)  # exact where the parameters are 0
    near = np.nextafter([-2.0, 2.0], 0, dtype=dtype.as_numpy_dtype)
    places = np.concatenate([knots, near, [-1e6, 1e6, 0.0]])
    value = tf.constant(np.repeat(places, 20), dtype)
    results, gradients = differentiated(value, some_params(value.shape[0], dtype, scale), invert)
    for tensor in (*results, *gradients):
        assert tensor.dtype == dtype
        assert np.isfinite(tensor).all()


@DTYPES
@DIRECTIONS
def test_knots_are_met(invert, dtype):
    params = some_params(1, dtype)
    theirs = reference(params)
    knots = [
        -2 + np.concatenate([[0], np.cumsum(s)]) for s in (theirs.bin_widths, theirs.bin_heights)
    ]
    given, wanted = knots[::-1] if invert else knots
    params = tf.repeat(params, len(given), axis=1)
    out, _ = evaluate(tf.constant(given, dtype), params, invert)
    np.testing.assert_allclose(out, wanted, atol=1e-5)


@DTYPES
def test_zeros_give_the_identity(dtype):
    value = tf.constant(np.linspace(-3, 3, 50), dtype)
    params = tf.zeros([SPLINE.num_params, 50], dtype)
    for invert in (False, True):
        out, log_slope = evaluate(value, params, invert)
        np.testing.assert_allclose(out, value, atol=8 * np.finfo(dtype.as_numpy_dtype).eps)
        np.testing.assert_allclose(log_slope, 0, atol=8 * np.finfo(dtype.as_numpy_dtype).eps)


def test_round_trip_in_float32():
    value, params = (
        tf.constant(np.linspace(-2.5, 2.5, 500), tf.float32),
        some_params(500, tf.float32),
    )
    out, log_slope = SPLINE.inverse(value, params)
    back, minus = SPLINE.forward(out, params)
    np.testing.assert_allclose(back, value, atol=1e-4)
    np.testing.assert_allclose(minus, -log_slope, atol=1e-3)


def test_order_of_the_parameters():
    """The conditioner's output holds the first parameter of all entries, then the second, ..."""
    params = some_params(3, tf.float32)
    net = lambda a: tf.repeat(tf.reshape(params, [1, -1]), tf.shape(a)[0], axis=0)  # noqa: E731
    coupling = fb.SplineCoupling(net, bins=BINS, bound=BOUND, min_slope=MIN_SLOPE)
    data = tf.constant([[9.0, 9.0, 9.0, -1.0, 0.3, 1.2]])
    expected, _ = SPLINE.inverse(data[0, 3:], params)
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
def test_arguments_that_do_not_make_a_spline(arguments, said):
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
    """A slope's parameter whose square would overflow is clipped, so it has no gradient."""
    clipped = RationalQuadraticSpline(4)
    value = tf.constant(np.linspace(-2.9, 2.9, 33), tf.float16)
    params = np.zeros([clipped.num_params, 33])
    params[8:] = np.array([[20.0], [40.0], [17.0]])
    params = tf.constant(params, tf.float16)
    for invert in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(params)
            out = sum(map(tf.reduce_sum, evaluate(value, params, invert, clipped)))
        np.testing.assert_array_equal(tape.gradient(out, params)[8:], 0.0)
