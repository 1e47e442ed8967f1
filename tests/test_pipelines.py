"""Flows where TFP puts distributions and bijectors: inference, MCMC, joint models, containers."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from places import CONTEXTS, PLACES
from small_flows import ready_made, small

import tfp_flows as flows

tfb, tfd, tfm = tfp.bijectors, tfp.distributions, tfp.mcmc


class Posterior:
    """`z ~ N(0, I)` and `y | z ~ N(A z, 0.5)`: the posterior of `z` is known."""

    A, y, scale = np.array([[1.0, 0.5], [-0.3, 2.0], [0.7, 0.7]]), np.array([1.0, -2.0, 0.5]), 0.5
    covariance = np.linalg.inv(np.eye(2) + A.T @ A / scale**2)
    mean = covariance @ A.T @ y / scale**2

    @classmethod
    def log_prob(cls, z):
        prior = tfd.MultivariateNormalDiag(tf.zeros(2)).log_prob(z)
        at = tf.linalg.matvec(tf.constant(cls.A, tf.float32), z)
        return prior + tf.reduce_sum(tfd.Normal(at, cls.scale).log_prob(np.float32(cls.y)), -1)

    @classmethod
    def evidence(cls):
        covariance = cls.A @ cls.A.T + np.eye(3) * cls.scale**2
        marginal = tfd.MultivariateNormalFullCovariance(np.zeros(3), covariance)
        return float(marginal.log_prob(cls.y))


def fit_surrogate(flow, optimizer):
    return tfp.vi.fit_surrogate_posterior(
        Posterior.log_prob, flow, optimizer, num_steps=250, sample_size=32, seed=[0, 1]
    )


def minimize(flow, optimizer):
    def loss(seed):
        return tfp.vi.monte_carlo_variational_loss(
            Posterior.log_prob, flow, sample_size=32, seed=seed
        )

    return tfp.math.minimize(
        loss, 250, optimizer, trainable_variables=flow.trainable_variables, seed=[0, 1]
    )


@pytest.mark.parametrize(
    "fit, adam, family",
    [
        (fit_surrogate, keras.optimizers.Adam, flows.planar),
        (fit_surrogate, tf_keras.optimizers.Adam, flows.planar),
        (minimize, keras.optimizers.Adam, flows.real_nvp),
        pytest.param(fit_surrogate, keras.optimizers.Adam, flows.iaf, marks=pytest.mark.slow),
    ],
    ids=["surrogate-keras", "surrogate-tf_keras", "minimize-keras", "surrogate-keras-iaf"],
)
def test_variational_inference_finds_a_known_posterior(fit, adam, family):
    flow = family(event_shape=(2,), layers=4)
    before = [v.numpy() for v in flow.trainable_variables]
    losses = fit(flow, adam(0.02))
    after = [v.numpy() for v in flow.trainable_variables]
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    # The bound's gap is the divergence from the posterior, here of nearly nothing.
    assert np.mean(losses[-50:]) == pytest.approx(-Posterior.evidence(), abs=0.05)
    z = flow.sample(4000, seed=[0, 2]).numpy()
    np.testing.assert_allclose(z.mean(0), Posterior.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(z.T), Posterior.covariance, atol=0.05)


def test_neutra():
    """HMC through any flow keeps the posterior, also one that was not fitted to it."""
    kernel = tfm.TransformedTransitionKernel(
        tfm.HamiltonianMonteCarlo(Posterior.log_prob, 0.2, 5), bijector=small().bijector
    )

    @tf.function(autograph=False)
    def run():
        return tfm.sample_chain(
            200,
            tf.zeros([60, 2]),
            kernel=kernel,
            num_burnin_steps=50,
            trace_fn=lambda _, results: results.inner_results.is_accepted,
            seed=[0, 1],
        )

    draws, accepted = run()
    assert np.mean(accepted) > 0.6
    draws = draws.numpy().reshape(-1, 2)
    np.testing.assert_allclose(draws.mean(0), Posterior.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(draws.T), Posterior.covariance, atol=0.03)


@pytest.mark.slow
def test_the_example(tmp_path):
    example = Path(__file__).parent.parent / "examples" / "neutra.py"
    done = subprocess.run(
        [sys.executable, str(example), "--output", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout.split("worth ")[1].split(" times")[0]) > 10
    row = next(r for r in done.stdout.splitlines() if r.startswith("HMC through the flow"))
    mean, std, tail = map(float, row.split()[-3:])
    assert abs(mean) < 0.3 and abs(std - 3.0) < 0.3 and abs(tail - 0.0228) < 0.012
    assert (tmp_path / "funnel.png").stat().st_size > 5000


@pytest.mark.parametrize("make", [small, pytest.param(ready_made, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__[3:])
def test_values_and_gradients_in_every_place(place, make):
    flow, given = make(), make(context_shape=(1,))
    log_prob, by_hand = place(flow, given)
    x = tf.constant(np.random.RandomState(0).normal(size=(4, 3, 2)), tf.float32)
    with tf.GradientTape() as tape:
        expected = by_hand(tf.identity(x))
    read = {id(v) for v in tape.watched_variables()}
    variables = [v for m in (flow, given) for v in m.trainable_variables if id(v) in read]
    assert variables
    wanted = tape.gradient(expected, variables)

    def value_and_gradients(x):
        with tf.GradientTape() as tape:
            value = log_prob(x)
        return value, tape.gradient(value, variables)

    traced = tf.function(value_and_gradients, autograph=False)
    for evaluate in (value_and_gradients, traced):
        value, gradients = evaluate(x)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
        for found, right in zip(gradients, wanted, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3)

    held = log_prob(x)  # what TFP's caches know of x must not outlive the update
    for variable in variables:
        variable.assign_add(0.1 * tf.ones_like(variable))
    expected = by_hand(tf.identity(x))
    assert not np.allclose(held, expected, atol=1e-3)
    np.testing.assert_allclose(log_prob(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(traced(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_samples_of_joint_models():
    """Ancestral sampling hands one part's value to a conditional flow."""
    flow, given = small(), small(context_shape=(1,))
    joint = tfd.JointDistributionNamed({"z": flow, "x": lambda z: given.condition(z[..., :1])})
    drawn = joint.sample(5, seed=[0, 1])
    again = joint.sample(5, seed=[0, 1])
    np.testing.assert_array_equal(drawn["x"], again["x"])
    assert drawn["x"].shape == (5, 2)
    _, log_prob = joint.experimental_sample_and_log_prob(5, seed=[0, 1])
    np.testing.assert_allclose(log_prob, joint.log_prob(drawn), rtol=1e-4, atol=1e-4)
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.0, 0.0, 1.0]), given.condition(CONTEXTS)
    )
    component = given.condition(CONTEXTS[2])
    means = [d.sample(2000, seed=[0, 1]).numpy().mean(0) for d in (mixture, component)]
    np.testing.assert_allclose(*means, atol=0.15)
