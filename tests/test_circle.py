"""Angles: splines and rotations without a seam."""

import math

import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.transformers import RationalQuadraticSpline

SPLINE = RationalQuadraticSpline(4, circular=True)
PARAMS = tf.constant(np.random.RandomState(0).normal(size=(SPLINE.num_params, 1)), tf.float64)


def at(angles) -> tuple[np.ndarray, np.ndarray]:
    angles = tf.constant(angles, tf.float64)
    params = tf.repeat(PARAMS, angles.shape[0], axis=1)
    return tuple(r.numpy() for r in SPLINE.inverse(angles, params))


def test_the_two_ends_are_one_point():
    values, log_slopes = at([-math.pi, math.pi])
    np.testing.assert_allclose(values, [-math.pi, math.pi], rtol=1e-12)
    assert log_slopes[0] == pytest.approx(log_slopes[1], abs=1e-12)
    assert abs(log_slopes[0]) > 0.01  # not held at a slope of 1, as a spline on a line is
    near = at([-math.pi + 1e-9, math.pi - 1e-9])[1]
    np.testing.assert_allclose(near, log_slopes, atol=1e-6)


def test_a_density_on_the_circle_sums_to_one():
    grid = np.linspace(-math.pi, math.pi, 20001)
    assert np.trapezoid(np.exp(at(grid)[1]), grid) / (2 * math.pi) == pytest.approx(1, abs=1e-6)


def test_hand_written_gradient_of_every_parameter():
    angles = tf.constant(np.linspace(-3.1, 3.1, 9))
    params = tf.repeat(PARAMS, 9, axis=1)
    for evaluate in (SPLINE.forward, SPLINE.inverse):

        def loss(params, evaluate=evaluate):
            value, log_slope = evaluate(angles, params)
            return tf.reduce_sum(tf.sin(value) + log_slope * log_slope)

        theirs, ours = tf.test.compute_gradient(loss, [params], 1e-5)
        np.testing.assert_allclose(theirs[0], ours[0], atol=1e-6)  # of differences


def test_rotation_and_its_inverse():
    rotation = fb.Rotation(3, seed=0, dtype=tf.float64)
    angles = tf.constant(np.random.RandomState(1).uniform(-math.pi, math.pi, (50, 3)))
    turned, log_det = rotation.forward_and_log_det(angles)
    assert np.all(np.abs(turned) <= math.pi) and np.all(log_det == 0.0)
    difference = np.exp(1j * turned.numpy()) / np.exp(1j * angles.numpy())
    np.testing.assert_allclose(np.angle(difference), np.tile(rotation.rotation, (50, 1)))
    np.testing.assert_allclose(rotation.inverse(tf.identity(turned)), angles, atol=1e-12)


def test_the_conditioner_is_continuous_at_the_seam():
    flow = flows.neural_spline((2,), 2, (8,), circular=True, seed=0, dtype=tf.float64)
    for variable in flow.trainable_variables:
        noise = np.random.RandomState(1).normal(size=variable.shape) * 0.3
        variable.assign_add(tf.constant(noise, variable.dtype))
    ends = flow.log_prob([[math.pi, 0.3], [-math.pi, 0.3], [0.3, math.pi], [0.3, -math.pi]])
    np.testing.assert_allclose(ends[::2], ends[1::2], rtol=1e-9)
    assert np.isfinite(ends).all()


def test_angles_outside_the_circle_are_an_error():
    flow = flows.neural_spline((2,), 2, (8,), circular=True)
    for bad in ([[4.0, 0.0]], [[np.nan, 0.0]]):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="wrap them onto"):
            flow.log_prob(tf.constant(bad))
        coupling = fb.SplineCoupling(lambda a: tf.zeros([1, 24]), bins=8, circular=True)
        with pytest.raises(ValueError, match="1 of 1 lie outside"):
            coupling.inverse(tf.reverse(tf.constant(bad), [-1]))
    with pytest.raises(ValueError, match="vectors of angles"):
        flows.neural_spline((4, 4, 1), circular=True)


@pytest.mark.parametrize("circular", [[True, False], [False, False], "no", 1, None])
def test_circular_is_one_bool(circular):
    with pytest.raises(ValueError, match="circular must be True or False"):
        flows.neural_spline((2,), 2, (4,), circular=circular)
    with pytest.raises(ValueError, match="circular must be True or False"):
        fb.SplineCoupling(lambda a: a, circular=circular)
