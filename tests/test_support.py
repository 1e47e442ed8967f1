"""Bounded data: densities on and beyond the bounds, and rows that are reported before training."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import each
from small_flows import IMAGES, VECTORS, moved

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions

# name: (data bijector, data inside, data on bounds or outside)
BOUNDED = {
    "sigmoid": (lambda: tfb.Sigmoid(), [0.001, 0.5], [0.0, 1.0, -0.5, 2.0, np.inf]),
    "sigmoid-bounds": (lambda: tfb.Sigmoid(-1.0, 3.0), [-0.9, 2.9], [-1.0, 3.0, -2.0, 9.0]),
    "tanh": (lambda: tfb.Tanh(), [-0.99, 0.5], [-1.0, 1.0, 1.5, -np.inf]),
    "softplus": (lambda: tfb.Softplus(), [1e-6, 1e6], [0.0, -1e-6, -3.0]),
    "exp": (lambda: tfb.Exp(), [1e-20, 1e20], [0.0, -1.0, np.inf]),
    "softclip": (lambda: tfb.SoftClip(-1e4, 1e4), [0.0, 1.0, -3.0], [-1e4, 1e4, 2e4]),
    "softclip-low": (lambda: tfb.SoftClip(low=1.0), [1.1, 1e5], [1.0, 0.5]),
    "softsign": (lambda: tfb.Softsign(), [-0.99, 0.5], [1.0, 1.0001, -3.0, 1e6]),
    "shift-of-exp": (lambda: tfb.Chain([tfb.Shift(-1e6), tfb.Exp()]), [0.0, 9.0], [-1e6, -2e6]),
    "reversed": (
        lambda: tfb.Chain([tfb.Scale(-2.0), tfb.Sigmoid()]),
        [-1.9, -0.1],
        [0.0, -2.0, 1.0],
    ),
    "inverted": (lambda: tfb.Invert(tfb.Log()), [1e-9, 5.0], [0.0, -1.0]),
    "logit": (lambda: fb.Logit(), [0.0, 0.5, 1.0], [-0.06, 1.06, -3.0, np.inf]),
    "chain-logit": (lambda: fb.Chain([tfb.Shift(5.0), fb.Logit()]), [5.0, 6.0], [4.0, 7.0]),
    "no-bounds": (lambda: tfb.Shift(1e6), [0.0, -1e6, 1e6], [np.inf]),
}


def gaussian(data_bijector, reversible=False, features=1, dtype=tf.float32):
    zero, one = tf.constant(0.0, dtype), tf.constant(1.0, dtype)
    base = tfd.Sample(tfd.Normal(zero, one), features)
    parts = [data_bijector, fb.ActNorm(features, dtype)]
    return moved(Flow(base, fb.Chain(parts, reversible)))


@pytest.mark.parametrize("reversible", [False, True], ids=["plain", "reversible"])
@pytest.mark.parametrize("name", BOUNDED)
def test_densities_on_and_beyond_bounds(name, reversible):
    make, inside, outside = BOUNDED[name]
    flow = gaussian(make(), reversible)
    y = tf.constant([*inside, *outside], tf.float32)[:, tf.newaxis]

    def evaluate(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            log_prob = flow.log_prob(y)
        return log_prob, *tape.gradient(log_prob, [y, *flow.trainable_variables])

    results = evaluate(y)
    for result, in_graph in zip(results, tf.function(evaluate)(y), strict=True):
        np.testing.assert_allclose(result, in_graph, rtol=1e-3, atol=1e-5)
    log_prob, d_y, *d_variables = results
    n = len(inside)
    x, log_det = flow.bijector.inverse_and_log_det(y[:n], 1)
    np.testing.assert_allclose(log_prob[:n], flow.distribution.log_prob(x) + log_det, rtol=1e-5)
    assert np.isfinite(log_prob[:n]).all()
    np.testing.assert_array_equal(log_prob[n:], -np.inf)
    assert np.isnan(flow.log_prob([np.nan]))  # which is not known to be outside
    np.testing.assert_array_equal(d_y[n:], 0.0)
    assert all(np.isfinite(d).all() for d in (d_y, *d_variables))


@pytest.mark.parametrize("dtype", [tf.float16, tf.float64], ids=lambda t: t.name)
def test_bounds_in_other_dtypes(dtype):
    flow = gaussian(tfb.Sigmoid(), features=2, dtype=dtype)
    log_prob = flow.log_prob(tf.constant([[0.5, 0.9], [1.0, 0.5], [0.5, -0.1]], dtype))
    assert log_prob.dtype == dtype
    np.testing.assert_array_equal(np.isfinite(log_prob), [True, False, False])
    np.testing.assert_array_equal(log_prob[1:], -np.inf)


@pytest.mark.parametrize(
    "make, inside, outside",
    [
        (
            lambda: tfb.Blockwise([tfb.Sigmoid(), tfb.Exp()], [1, 1]),
            [[0.5, 1.0], [0.1, 9.0]],
            [[1.0, 1.0], [0.5, 0.0], [2.0, -1.0]],
        ),
        (
            lambda: tfb.IteratedSigmoidCentered(),
            [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]],
            [[0.2, 0.3, 0.6], [0.2, 0.8, 0.0], [-0.1, 0.6, 0.5]],
        ),
        (lambda: tfb.Ascending(), [[0.1, 0.2, 0.3]], [[0.3, 0.2, 0.1]]),
        (
            lambda: tfb.CorrelationCholesky(),
            [[[1.0, 0.0], [0.6, 0.8]]],
            [[[1.0, 0.0], [0.6, 0.7]]],
        ),
    ],
    ids=["blockwise", "simplex", "ascending", "correlation"],
)
def test_bounds_of_whole_events(make, inside, outside):
    bijector, y = make(), tf.constant([*inside, *outside])
    (features,) = bijector.inverse_event_shape(y.shape[1:])
    flow = gaussian(bijector, features=features)
    log_prob = flow.log_prob(y).numpy()
    assert np.isfinite(log_prob[: len(inside)]).all()
    np.testing.assert_array_equal(log_prob[len(inside) :], -np.inf)
    batches = flow.log_prob(tf.stack([y, y])).numpy()
    np.testing.assert_array_equal(batches, [log_prob, log_prob])


def test_bounds_further_in():
    """Bounds are found wherever a chain meets them, in one evaluation of its networks."""
    calls = []

    def shift(a):
        calls.append(1)
        return a

    coupling = fb.AdditiveCoupling(shift)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    flow = Flow(base, fb.Chain([coupling, fb.Chain([tfb.Scale(2.0), tfb.Softplus()])]))
    log_prob = flow.log_prob([[1.0, 2.0], [1.0, 0.5], [-1.0, 3.0]]).numpy()
    assert len(calls) == 1
    assert np.isfinite(log_prob[0])
    np.testing.assert_array_equal(log_prob[1:], -np.inf)


def test_an_inexact_inverse_is_not_taken_for_a_bound():
    flow = gaussian(tfb.Softfloor(0.5))  # whose round trip is off by 0.015
    assert np.isfinite(flow.log_prob([[0.0], [-1.0], [0.3], [2.0]])).all()


def test_an_overflow_in_the_flow_is_not_hidden():
    flow = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.AdditiveCoupling(lambda a: a * np.nan))
    assert np.isnan(flow.log_prob([[1.0, 1.0]])).all()


@each(VECTORS, lambda name: name in ("nice", "maf", "iaf", "planar", "residual"))
def test_every_flow_over_bounded_rows(name):
    y = tf.constant([[0.2, 0.7], [0.0, 0.5], [-0.5, 0.5], [0.5, 1.5]])
    flow = moved(VECTORS[name](event_shape=(2,), data_bijector=tfb.Sigmoid(), context_shape=2))
    context = tf.random.stateless_normal([4, 2], [1, 2])
    with tf.GradientTape() as tape:
        log_prob = flow.log_prob(y, context=context)
    gradients = tape.gradient(log_prob, flow.trainable_variables)
    assert np.isfinite(log_prob[0])
    np.testing.assert_array_equal(log_prob[1:], -np.inf)
    assert all(np.isfinite(g).all() for g in gradients if g is not None)
    x, expected = flow.experimental_sample_and_log_prob(4, seed=[0, 1], context=context)
    assert tf.reduce_all((x > 0.0) & (x < 1.0))
    np.testing.assert_allclose(flow.log_prob(x, context=context), expected, rtol=1e-2, atol=1e-2)


@each(IMAGES, lambda name: name == "glow")
def test_every_flow_over_bounded_images(name):
    flow = IMAGES[name](data_bijector=tfb.Sigmoid())
    x = flow.sample(2, seed=[0, 1])
    assert tf.reduce_all((x > 0.0) & (x < 1.0))
    assert np.isfinite(flow.log_prob(x)).all()
    np.testing.assert_array_equal(flow.log_prob(x + 0.9), -np.inf)


def test_a_data_bijector_that_changes_the_shape():
    flow = flows.maf((3,), 1, (4,), data_bijector=tfb.IteratedSigmoidCentered())
    assert flow.event_shape == (3,)
    np.testing.assert_allclose(tf.reduce_sum(flow.sample(5, seed=0), -1), 1.0, atol=1e-5)
    assert np.isfinite(flow.log_prob(flow.sample(5, seed=0))).all()


@pytest.mark.parametrize(
    "bijector, error, said",
    [
        ("sigmoid", TypeError, "must be an injective tfb.Bijector.*got 'sigmoid'"),
        (tfb.AbsoluteValue(), TypeError, "must be an injective tfb.Bijector"),
        (tfb.Sigmoid(np.float64(0), np.float64(1)), ValueError, "computes in float32"),
    ],
)
def test_bad_data_bijectors(bijector, error, said):
    with pytest.raises(error, match=said):
        flows.maf((2,), 1, (4,), data_bijector=bijector)


def test_bounded_flows_are_saved_and_served(tmp_path):
    y = np.array([[0.2, 0.7], [0.0, 0.5], [2.0, 0.5]], np.float32)
    flow = moved(flows.real_nvp((2,), 2, (4,), data_bijector=tfb.Sigmoid(-1.0, 1.0)))
    model = flows.FlowModel(flow)
    flows.initialize(flow, y[:2])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = flow.log_prob(y).numpy()
    assert np.isneginf(expected[2]) and np.isfinite(expected[:2]).all()
    np.testing.assert_array_equal(loaded.log_prob(y), expected)
    model.export(str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["log_prob"]
    (answer,) = served(x=tf.constant(y)).values()
    np.testing.assert_allclose(answer, expected, rtol=1e-5)


def test_saturated_samples():
    """What rounds to a bound has the log-density minus infinity; with its latent it is finite."""
    flow = Flow(tfd.Sample(tfd.Normal(0.0, 100.0), 1), fb.Chain([tfb.Tanh()]))
    x, log_prob = flow.experimental_sample_and_log_prob(50, seed=[0, 1])
    assert (np.abs(x) == 1.0).any() and np.isfinite(log_prob).all()
    again = flow.log_prob(x)
    np.testing.assert_array_equal(np.isneginf(again), np.abs(x[:, 0]) == 1.0)
    assert not np.isnan(again).any()


# What is said of rows without density.


def bounded_rows():
    rows = np.random.RandomState(0).uniform(0.1, 0.9, size=(12, 2)).astype(np.float32)
    bad = rows.copy()
    bad[3, 0], bad[5, 1], bad[6, 1], bad[6, 0] = 0.0, 1.0, 3.0, -2.0
    return rows, bad


@pytest.fixture(scope="module")
def bounded_model():
    model = flows.FlowModel(flows.real_nvp((2,), 2, (4,), data_bijector=tfb.Sigmoid()))
    model.compile("adam")
    return model


SAID = r"3 of 12 \w+ have no density.*Column 0: 2 at or below 0; Column 1: 2 at or above 1\."


@pytest.mark.parametrize(
    "use",
    [
        lambda m, rows, bad: m.fit(bad, verbose=0),
        lambda m, rows, bad: m.fit(rows, validation_data=bad, verbose=0),
        lambda m, rows, bad: m.evaluate(bad, verbose=0),
        lambda m, rows, bad: m.train_on_batch(bad),
        lambda m, rows, bad: flows.initialize(m.flow, bad),
    ],
    ids=["fit", "validation", "evaluate", "train_on_batch", "initialize"],
)
def test_rows_without_density_are_named(bounded_model, use):
    with pytest.raises(ValueError, match=SAID):
        use(bounded_model, *bounded_rows())


def test_rows_without_density_in_data_sets(bounded_model):
    data = tf.data.Dataset.from_tensor_slices(bounded_rows()[1]).batch(6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="bounds that the flow"):
        bounded_model.evaluate(data, verbose=0)


def test_rows_without_density_have_a_log_probability(bounded_model):
    _, bad = bounded_rows()
    expected = [False] * 12
    for row in (3, 5, 6):
        expected[row] = True
    np.testing.assert_array_equal(np.isneginf(bounded_model.log_prob(bad)), expected)
    np.testing.assert_array_equal(np.isneginf(bounded_model.predict(bad, verbose=0)), expected)


@pytest.mark.parametrize(
    "make, x, said",
    [
        (lambda: tfb.Exp(), [[1.0, 2.0], [1.0, -1.0]], "1 of 2.* Column 1: 1 at or below 0"),
        (
            lambda: tfb.Chain([tfb.Scale(-1.0), tfb.Softplus()]),
            [[-1.0, 0.5]],
            "Column 1: 1 at or above 0",
        ),
        (
            lambda: tfb.Blockwise([tfb.Exp(), tfb.Sigmoid(0.0, 5.0)], [1, 1]),
            [[-1.0, 1.0], [1.0, 6.0]],
            "2 of 2.* Column 0: 1 at or below 0; Column 1: 1 at or above 5",
        ),
        (lambda: fb.Logit(0.25), [[1.5, 0.5]], "Column 0: 1 at or above 1.5"),
    ],
    ids=["exp", "negated", "blockwise", "logit"],
)
def test_bounds_are_named(make, x, said):
    flow = flows.maf((2,), 1, (4,), data_bijector=make(), context_shape=1)
    with pytest.raises(ValueError, match=said):
        flows.initialize(flow, np.float32(x), context=np.ones([len(x), 1], np.float32))


def test_rows_off_a_surface_are_named():
    flow = flows.maf((3,), 1, (4,), data_bijector=tfb.IteratedSigmoidCentered())
    with pytest.raises(ValueError, match=r"1 of 2 .*Row 1 is not a value that it gives"):
        flows.initialize(flow, [[0.2, 0.3, 0.5], [0.2, 0.3, 0.6]])


def test_pixels_without_density_are_named():
    flow = flows.real_nvp((2,), 2, (4,), data_bijector=tfb.Sigmoid())
    with pytest.raises(ValueError, match="Column 0: 1 at or below 0; Column 1: 1 at or below 0"):
        flows.initialize(flows.Dequantized(flow, 8), [[0, 6], [6, 1]])


# Cumulative functions of single numbers.


@pytest.mark.parametrize(
    "make, increasing",
    [
        (lambda: fb.Logit(), True),
        (lambda: fb.Chain([tfb.Sigmoid()]), True),
        (lambda: fb.Chain([tfb.Shift(1.0), tfb.Scale(-1.0), fb.Logit()]), False),
        (lambda: fb.Chain([tfb.Scale(-1.0), fb.Chain([tfb.Scale(-2.0)])]), True),
        (lambda: fb.Invert(fb.Chain([tfb.Scale(-2.0)])), False),
        (lambda: fb.Repeat(tfb.Scale(tf.Variable(-2.0)), 3), False),
        (lambda: fb.Repeat(tfb.Scale(tf.Variable(-2.0)), 2), True),
        (lambda: fb.Chain([fb.ActNorm(())]), True),
    ],
    ids=[
        "logit",
        "sigmoid",
        "negated-logit",
        "twice",
        "invert",
        "repeat-3",
        "repeat-2",
        "actnorm",
    ],
)
def test_cumulative_functions(make, increasing):
    flow = Flow(tfd.Normal(0.3, 1.0), make())
    assert bool(flow.bijector._internal_is_increasing()) == increasing
    share = tf.constant([0.1, 0.5, 0.9])
    y = flow.quantile(share)
    assert np.all(np.diff(y) > 0)
    np.testing.assert_allclose(flow.cdf(y), share, atol=1e-5)
    np.testing.assert_allclose(flow.survival_function(y), 1 - share, atol=1e-5)
    np.testing.assert_allclose(tf.exp(flow.log_cdf(y)), share, atol=1e-5)
    np.testing.assert_allclose(tf.exp(flow.log_survival_function(y)), 1 - share, atol=1e-5)


@pytest.mark.parametrize("decreasing", [False, True])
def test_cumulative_functions_beyond_bounds(decreasing):
    parts = [tfb.Shift(1.0), tfb.Scale(-1.0)] if decreasing else []
    flow = Flow(tfd.Normal(0.0, 1.0), fb.Chain([*parts, tfb.Sigmoid()]))
    y = tf.constant([-2.0, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(flow.cdf(y), [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(flow.survival_function(y), [1, 1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.exp(flow.log_cdf(y)), [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(np.exp(flow.log_survival_function(y)), [1, 1, 0.5, 0, 0], atol=1e-6)
