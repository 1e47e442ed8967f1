"""Ready-made flows, their initialisation, and pixels."""

import math
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import each
from small_flows import READY_MADE, moved

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.core import variable_paths
from tfp_flows.distributions.initialization import needs_initialization

tfb, tfd = tfp.bijectors, tfp.distributions

EVERY = each(READY_MADE, lambda name: name in ("nice", "real_nvp", "real_nvp-image", "glow", "maf"))
EXACT = [n for n in READY_MADE if not n.startswith("ffjord")]  # a solver has an error


def test_the_table_has_every_ready_made_flow():
    helpers = {"dequantizer", "with_labels"}
    assert {name.split("-")[0] for name in READY_MADE} == set(flows.flows.__all__) - helpers


@each(EXACT, lambda name: name in ("nice", "real_nvp", "real_nvp-image", "glow", "maf"))
def test_log_prob_is_the_change_of_variables(name):
    flow = READY_MADE[name](dtype=tf.float64)
    x = tf.random.normal([4, *flow.event_shape], dtype=tf.float64)
    flows.initialize(flow, x)
    size = flow.event_shape.num_elements()
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.reshape(flow.bijector.inverse(x), [4, size])
    jacobian = tf.reshape(tape.batch_jacobian(z, x), [4, size, size])
    expected = flow.distribution.log_prob(z) + tf.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(flow.log_prob(x), expected, rtol=1e-9)


@EVERY
def test_shapes_seeds_and_batches(name):
    flow = READY_MADE[name]()
    event = flow.event_shape
    assert flow.sample(3, seed=[1, 2]).shape == [3, *event]
    np.testing.assert_array_equal(flow.sample(3, seed=[1, 2]), flow.sample(3, seed=[1, 2]))
    assert flow.batch_shape == []
    assert flow.log_prob(tf.zeros(event)).shape == []
    assert flow.log_prob(tf.zeros([2, 3, *event])).shape == [2, 3]
    assert flow.log_prob(tf.zeros([0, *event])).shape == [0]
    assert flow.prob(tf.zeros([2, *event])).shape == [2]
    value, log_prob = flow.experimental_sample_and_log_prob([2], seed=[1, 2])
    np.testing.assert_allclose(log_prob, flow.log_prob(value), rtol=1e-4)


@EVERY
def test_every_variable_is_named_and_gets_a_gradient(name):
    flow = READY_MADE[name]()
    x = tf.random.normal([8, *flow.event_shape])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(flow.log_prob(x))
    gradients = tape.gradient(loss, flow.trainable_variables)
    assert all(g is not None for g in gradients)
    paths = variable_paths(flow)
    assert len(paths) == len(flow.variables)
    assert list(paths) == list(variable_paths(READY_MADE[name]()))


@EVERY
def test_initialisation(name):
    flow = READY_MADE[name]()
    x = 3.0 * tf.random.normal([64, *flow.event_shape]) + 5.0
    before = flow.log_prob(x)
    assert needs_initialization(flow)  # looking does not initialise
    flows.initialize(flow, x)
    assert not needs_initialization(flow)
    assert tf.reduce_mean(flow.log_prob(x)) > tf.reduce_mean(before)
    values = [v.numpy() for v in flow.variables]
    flows.initialize(flow, 2.0 * x)  # done is done
    for variable, value in zip(flow.variables, values, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("stacked", [True, False])
def test_an_odd_number_of_layers_alternates_to_the_end(stacked):
    """Even features see each other through the odd ones, so three layers must alternate."""
    flow = moved(
        flows.nice(
            (4,), layers=3, hidden=(3,), activation="tanh", stacked=stacked, dtype=tf.float64
        )
    )
    x = tf.constant([[0.1, -0.4, 0.3, 0.7]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = flow.bijector.inverse(x)
    jacobian = tape.batch_jacobian(z, x)[0].numpy()
    for part in (slice(0, None, 2), slice(1, None, 2)):
        off_diagonal = jacobian[part, part][[0, 1], [1, 0]]
        assert (np.abs(off_diagonal) > 1e-6).all()


def test_initialisation_is_all_or_nothing():
    flow = READY_MADE["real_nvp"](event_shape=(5,))
    values = [v.numpy() for v in flow.variables]
    huge = tf.concat([tf.zeros([4, 5]), tf.fill([1, 5], 3e38)], 0)
    for bad, message in (
        (tf.concat([huge, tf.fill([1, 5], np.nan)], 0), "1 of 6 examples hold NaN or infinity"),
        (tf.zeros([0, 5]), "at least one example"),
        (tf.zeros([4, 6]), r"event shape \(5,\)"),
        (tf.zeros([4, 5], tf.int32), "Dequantized"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            flows.initialize(flow, bad)
    for variable, value in zip(flow.variables, values, strict=True):
        np.testing.assert_array_equal(variable, value)
    with pytest.raises(ValueError, match="cannot be reached"):
        flows.initialize(
            tfd.TransformedDistribution(
                tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfb.Invert(fb.ActNorm(2))
            ),
            tf.random.normal([4, 2]),
        )


def test_initialisation_inside_tfp_containers():
    norm = fb.ActNorm(2)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    flow = tfd.TransformedDistribution(base, tfb.Chain([tfb.Scale(2.0), norm]))
    x = tf.random.normal([100, 2]) * 5.0 + 1.0
    flows.initialize(flow, x)
    z = flow.bijector.inverse(x)
    np.testing.assert_allclose(tf.math.reduce_std(z, 0), [1.0, 1.0], rtol=1e-5)


def test_bad_shapes_and_types():
    with pytest.raises(ValueError, match=r"divisible by 4; got 6x6"):
        flows.glow((6, 6, 1), levels=2)
    with pytest.raises(ValueError, match=r"\(height, width, channels\), got \(6,\)"):
        flows.glow((6,))
    with pytest.raises(ValueError, match="2 features or more"):
        flows.real_nvp((1,))
    with pytest.raises(ValueError, match=r"\(features,\), got \(4, 4, 1\)"):
        flows.nice((4, 4, 1))
    flow = READY_MADE["nice"](event_shape=(6,))
    with pytest.raises(TypeError, match=r"int32.*Dequantized"):
        flow.log_prob(tf.ones([2, 6], tf.int32))
    with pytest.raises(ValueError, match=r"event shape \(6,\), got values of shape \(2, 5\)"):
        flow.log_prob(tf.ones([2, 5]))
    with pytest.raises(TypeError, match="sead"):
        flow.log_prob(tf.ones([2, 6]), sead=1)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.int32])
def test_dtypes_that_no_flow_computes_in(dtype):
    for make in READY_MADE.values():
        with pytest.raises(
            ValueError, match=rf"{make.func.__name__} computes in .*{dtype.name}.*mixed_b"
        ):
            make(dtype=dtype)


def test_numpy_float64_goes_into_a_float32_flow():
    flow = READY_MADE["nice"](event_shape=(6,))
    assert flow.log_prob(np.zeros([2, 6])).dtype == tf.float32


def test_learnt_density_integrates_to_one():
    flow = flows.real_nvp((2,), layers=4, hidden=(16,))
    flows.initialize(flow, tf.random.normal([100, 2]))
    for variable in flow.trainable_variables:
        variable.assign_add(0.1 * tf.random.normal(variable.shape))
    axis = np.linspace(-12, 12, 400, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    total = float(tf.reduce_sum(flow.prob(grid))) * float(axis[1] - axis[0]) ** 2
    assert abs(total - 1.0) < 0.01


def test_mean_is_not_taken_through_a_curved_map():
    """TFP calls any map with a constant Jacobian affine; an additive coupling is not."""
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    for wrap in (lambda b: b, lambda b: fb.Chain([b]), lambda b: tfb.Chain([b])):
        flow = tfd.TransformedDistribution(base, wrap(fb.AdditiveCoupling(tf.square)))
        with pytest.raises(NotImplementedError):
            flow.mean()
    affine = tfd.TransformedDistribution(base, fb.Chain([fb.ActNorm(2), fb.Invertible1x1Conv(2)]))
    np.testing.assert_allclose(affine.mean(), [0.0, 0.0], atol=1e-6)


# Pixels


def box(event=(2, 2, 1)):
    """Uniform where dequantised pixels are."""
    return tfd.Independent(tfd.Uniform(tf.fill(event, -0.5), tf.fill(event, 0.5)), len(event))


def test_dequantised_uniform_costs_log_levels():
    pixels = flows.Dequantized(box(), levels=16)
    bits = -pixels.log_prob(tf.fill([3, 2, 2, 1], 15)) / (4 * math.log(2.0))
    np.testing.assert_allclose(bits, [4.0, 4.0, 4.0], rtol=1e-6)
    assert pixels.event_shape == [2, 2, 1] and pixels.dtype == tf.int32


def test_probabilities_of_all_pixels_sum_to_one_at_most():
    """The bound holds: the sum over all pixel values is below one, and near it for a wide flow."""
    flow = tfd.Independent(tfd.Normal([0.1], [0.3]), 1)
    pixels = flows.Dequantized(flow, levels=8, num_samples=4000)
    total = float(tf.reduce_sum(tf.exp(pixels.log_prob(tf.range(8)[:, None], seed=[1, 2]))))
    inside = float(flow.distribution.cdf([0.5])[0] - flow.distribution.cdf([-0.5])[0])
    assert total < inside + 1e-3
    assert total > inside - 0.02


def test_more_noise_samples_reduce_the_variance():
    flow = tfd.Independent(tfd.Normal([0.0], [0.1]), 1)
    x = tf.zeros([200, 1], tf.int32)
    one = flows.Dequantized(flow, levels=4).log_prob(x, seed=[1, 2])
    many = flows.Dequantized(flow, levels=4, num_samples=64).log_prob(x, seed=[1, 2])
    assert tf.math.reduce_std(many) < 0.3 * tf.math.reduce_std(one)
    np.testing.assert_allclose(tf.reduce_mean(many), tf.reduce_mean(one), rtol=0.1)


def test_pixels_round_trip_and_samples_are_in_range():
    flow = READY_MADE["glow"](event_shape=(4, 4, 3))
    pixels = flows.Dequantized(flow, levels=7)
    x = tf.random.uniform([5, 4, 4, 3], maxval=7, dtype=tf.int32)
    for noise in (0.001, 0.5, 0.999):  # at the very edge, rounding decides
        np.testing.assert_array_equal(pixels.quantize(pixels.dequantize(x, noise)), x)
    sample = pixels.sample(20, seed=[1, 2])
    assert sample.dtype == tf.int32
    assert int(tf.reduce_min(sample)) >= 0 and int(tf.reduce_max(sample)) <= 6
    assert pixels.log_prob(x.numpy().astype(np.uint8)).shape == [5]
    assert pixels.log_prob(x.numpy().astype(np.float64)).shape == [5]
    np.testing.assert_array_equal(pixels.log_prob(x, seed=[3, 4]), pixels.log_prob(x, seed=[3, 4]))


def test_invalid_pixels_raise():
    pixels = flows.Dequantized(box(), levels=16)
    good = np.zeros([3, 2, 2, 1])
    for bad in (16, -1, 0.5, np.nan):
        x = good.copy()
        x[0, 0, 0, 0] = bad
        with pytest.raises(ValueError, match=r"0 ... 15 \(levels=16\).*Invalid: 1 of 12"):
            pixels.log_prob(x)
        with pytest.raises(tf.errors.InvalidArgumentError, match="levels=16"):
            tf.function(pixels.log_prob)(tf.constant(x))
    with pytest.raises(ValueError, match="levels=16"):
        pixels.prob(good + 99)
    with pytest.raises(ValueError, match=r"event shape \(2, 2, 1\)"):
        pixels.log_prob(np.zeros([3, 2, 1, 1]))
    fine = flows.Dequantized(box(), levels=300)
    assert fine.log_prob(np.full([1, 2, 2, 1], 200, np.uint8)).shape == [1]
    assert flows.Dequantized(box(), levels=2).log_prob(good.astype(bool)).shape == [3]
    with pytest.raises(ValueError, match="2 or more"):
        flows.Dequantized(box(), levels=1)
    with pytest.raises(TypeError, match="continuous"):
        flows.Dequantized(pixels)


def test_initialize_warns_of_values_far_from_all_others():
    rows = np.random.RandomState(0).normal(size=(64, 2)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flows.initialize(flows.real_nvp((2,), 2, (4,)), rows)
    rows[5, 1] = 1e6
    with pytest.warns(UserWarning, match=r"1 of 64 .* as 1e\+06 in row 5.*[Rr]emove them"):
        flows.initialize(flows.real_nvp((2,), 2, (4,)), rows)
