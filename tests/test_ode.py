"""Error control of adaptive continuous flows, and why it is not that of TFP's solver."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb

TOLERANCE = 1e-6
INTEGRAL = 20.0 * (1.0 - np.cos(40.0)) / 40.0  # of `rate` from 0 to 1

# Errors of tens of steps add up; without error control they are 1e-1 and more.
CLOSE = dict(rtol=50 * TOLERANCE, atol=50 * TOLERANCE)


def rate(time):
    return 20.0 * tf.sin(40.0 * time)


def growing(x, time):
    """0 is a fixed point, around which distances grow by `exp(INTEGRAL)`."""
    return x * rate(time)


def sheared(x, time):
    """The velocity of the first entry is that of the second, times `rate`; the log-det is 0."""
    return tf.stack([rate(time[:, 0]) * x[:, 1], tf.zeros_like(x[:, 0])], axis=-1)


def flow(field):
    return fb.ContinuousFlow(field, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_hard_example_is_as_accurate_among_easy_ones_as_alone(direction):
    follow = getattr(flow(sheared), direction)
    hard, easy = np.array([[0.0, 1.0]]), np.zeros([5000, 2])
    alone = follow(tf.constant(hard))[0]
    among = follow(tf.constant(np.concatenate([easy, hard, easy])))[5000]
    np.testing.assert_allclose(among, alone, rtol=1e-12)
    np.testing.assert_allclose(alone[0], INTEGRAL if direction == "forward" else -INTEGRAL, **CLOSE)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_log_det_is_accurate_where_the_state_is_constant(direction):
    both = getattr(flow(growing), f"{direction}_and_log_det")
    value, log_det = both(tf.zeros([2, 1], tf.float64))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_allclose(log_det, INTEGRAL if direction == "forward" else -INTEGRAL, **CLOSE)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_gradients_of_any_size_are_accurate(scale):
    x = tf.zeros([2, 1], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = scale * tf.reduce_sum(flow(growing).forward(x))
    found = tape.gradient(loss, x) / scale
    np.testing.assert_allclose(found, np.exp(INTEGRAL), rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_example_that_is_not_finite_does_not_affect_the_others(bad, jit):
    bijector = flow(lambda x, time: tf.tanh(x[:, ::-1]) * rate(time))
    x = np.random.RandomState(0).normal(size=(4, 2))
    x[1, 0] = bad
    valid = np.array([True, False, True, True])

    @tf.function(jit_compile=jit)
    def results(x, weight):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = bijector.inverse_and_log_det(x)
            loss = tf.reduce_sum(tf.where(weight[:, None] > 0, tf.sin(y), 0.0))
            loss += tf.reduce_sum(tf.where(weight > 0, log_det, 0.0))
            loss *= 1e-9  # its gradient is as accurate as that of a larger one
        return y, log_det, 1e9 * tape.gradient(loss, x)

    found = results(tf.constant(x), tf.constant(valid * 1.0))
    expected = results(tf.constant(x[valid]), tf.ones([3], tf.float64))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy()[valid], b, rtol=1e-12)
    y, log_det = found[0][1], found[1][1]
    assert not (np.isfinite(y).all() and np.isfinite(log_det))


class TestReasonsNotToUseTheSolverOfTFP:
    """The reasons that `solvers/ode.py` names; one whose test fails is no longer valid."""

    pytestmark = pytest.mark.slow

    @staticmethod
    def solve(field, x, **settings):
        settings = dict(rtol=TOLERANCE, atol=TOLERANCE, first_step_size=0.01) | settings
        zero, one = tf.zeros([], x.dtype), tf.ones([1], x.dtype)
        return tfp.math.ode.DormandPrince(**settings).solve(field, zero, x, one)

    def test_it_repeats_a_step_that_is_not_finite_forever(self):
        class Enough(Exception):
            pass

        calls = []

        def field(time, x):
            calls.append(1)
            if len(calls) > 300:
                raise Enough
            return x * np.nan

        with pytest.raises(Enough):
            self.solve(field, tf.ones([2, 1]))
        flow_of_nan = fb.ContinuousFlow(lambda x, time: x * np.nan)
        with pytest.raises(tf.errors.InvalidArgumentError, match="did not reach the end time"):
            flow_of_nan.forward(tf.ones([2, 1]))

    def test_its_max_num_steps_is_ignored_under_xla(self):
        def evaluations(x):
            solution = self.solve(lambda t, x: x * rate(t), x, max_num_steps=5)
            return solution.diagnostics.num_ode_fn_evaluations

        x = tf.ones([2, 1], tf.float64)
        with pytest.raises(tf.errors.InvalidArgumentError, match="max_num_steps exceeded"):
            tf.function(evaluations)(x)
        assert tf.function(evaluations, jit_compile=True)(x) > 10 * 6

    def test_its_mean_hides_a_hard_example(self):
        errors = []
        for size in (1, 10000):
            hard = tf.one_hot([0], size, dtype=tf.float64)[0][:, None]
            x = tf.ones([size, 1], tf.float64)
            end = self.solve(lambda t, x, hard=hard: hard * x * rate(t), x).states[-1]
            errors.append(abs(end[0, 0] / np.exp(INTEGRAL) - 1.0))
        assert errors[1] > 20 * errors[0]

    def test_its_small_gradients_are_wrong(self):
        errors = []
        for scale in (1.0, 1e-8):
            x = tf.zeros([2, 1], tf.float64)
            with tf.GradientTape() as tape:
                tape.watch(x)
                end = self.solve(lambda t, x: x * rate(t), x).states[-1]
                loss = scale * tf.reduce_sum(end)
            found = tape.gradient(loss, x) / scale
            errors.append(np.abs(found / np.exp(INTEGRAL) - 1.0).max())
        assert errors[0] < 1e-4 and errors[1] > 1e-1
