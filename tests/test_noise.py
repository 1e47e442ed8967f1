"""Noise of a training step: new for every owner, place and step, and the same if repeated."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_flows import bijectors as fb
from tfp_flows import conditioners
from tfp_flows.core.evaluation import NoiseSource, at_index, evaluating, noise_seed


def noise(step=0):
    return NoiseSource(lambda: tf.constant([7, step], tf.int32))


def test_seeds_differ_by_owner_place_and_step_and_repeat_themselves():
    one, two = object(), object()

    def seeds(step):
        with evaluating(noise=noise(step)):
            drawn = [noise_seed(one), noise_seed(two), noise_seed(one)]
            for place in range(2):
                with at_index(place):
                    drawn.append(noise_seed(one))
        return [tuple(s.numpy()) for s in drawn]

    first = seeds(0)
    assert first[0] == first[2]
    assert len({*first, *seeds(1)}) == 8
    assert first == seeds(0)
    assert tuple(noise_seed(one).numpy()) != tuple(noise_seed(one).numpy())


@pytest.mark.parametrize("unroll", [False, True])
def test_training_by_inversion_meets_the_same_noise_again(unroll):
    """With other draws in the rebuilt pass, the gradients would be those of another estimate."""
    net = conditioners.lipschitz_mlp(3, (8,), bound=0.9)
    step = fb.Residual(net, log_det="unbiased")
    plain = fb.Repeat(step, 3, unroll=unroll)
    stacked = plain.parameters["stacked"]
    rebuilt = fb.Repeat(step, 3, unroll=unroll, reversible=True, stacked=stacked)
    x = tf.random.stateless_normal([5, 3], [0, 1])

    @tf.function
    def gradients(repeat, seed):
        with evaluating(noise=NoiseSource(lambda: seed)), tf.GradientTape() as tape:
            _, log_det = repeat.inverse_and_log_det(x, 1)
        return log_det, tape.gradient(log_det, plain.trainable_variables)

    seed = tf.constant([1, 2], tf.int32)
    (log_det, expected), (same, found) = gradients(plain, seed), gradients(rebuilt, seed)
    np.testing.assert_allclose(same, log_det, rtol=1e-5)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
    other = gradients(rebuilt, tf.constant([3, 4], tf.int32))[0]
    assert np.abs(other - log_det).max() > 1e-3
