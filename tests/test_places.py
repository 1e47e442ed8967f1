"""Every family of flows in every place of TFP."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from places import CONTEXTS, PLACES, coroutine
from small_flows import VECTORS, moved

import tfp_flows as flows

tfb, tfd, tfm = tfp.bijectors, tfp.distributions, tfp.mcmc

NORMAL = tfd.Sample(tfd.Normal(0.0, 1.0), 2)  # the latents of `places.pushed`
QUICK = {"maf": "seq_auto_batched", "iaf": "vectorized_map", "residual": "auto_batched"}
QUICK_DRAWS = {"maf": "sequential", "iaf": "mixture_same_family"}


def made(family):
    """A family's flow over pairs, without and with a context."""
    # Draws in TensorFlow's vectorised loops fail where examples need different numbers of passes.
    options = {"layers": 1, "hidden": (8,)} if family == "residual" else {}
    plain, given = (
        VECTORS[family](event_shape=(2,), context_shape=c, **options) for c in (None, (1,))
    )
    return [moved(flow.copy(distribution=NORMAL)) for flow in (plain, given)]


@pytest.fixture(scope="module")
def pair():
    """A family's flow without and with a context, made once."""
    return functools.cache(made)


def marked(places, quick):
    """All pairs of a family and a place: a few are quick, of the others one in four is slow."""
    for i, family in enumerate(VECTORS):
        for j, (name, place) in enumerate(places.items()):
            marks = pytest.mark.slow if (i + j) % 4 == 0 else pytest.mark.long
            marks = () if quick.get(family) == name else marks
            yield pytest.param(family, place, marks=marks, id=f"{family}-{name}")


def plain(place):
    values = getattr(place, "values", (place,))  # what is slow there is in a `pytest.param`
    return values[0]


NAMES = {getattr(p, "id", None) or plain(p).__name__[3:]: plain(p) for p in PLACES}


@pytest.mark.parametrize("family, place", marked(NAMES, QUICK))
def test_log_densities(pair, family, place):
    log_prob, by_hand = place(*pair(family))
    x = tf.constant(np.random.RandomState(0).normal(size=(4, 3, 2)), tf.float32)
    expected = by_hand(tf.identity(x))
    found = tf.function(log_prob, autograph=False)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def later(given):
    return lambda z: given.condition(z[..., :1])


def three(given):
    return given.condition(CONTEXTS)


DRAWN = {
    "sequential": lambda f, g: tfd.JointDistributionSequential([f, later(g)]),
    "named": lambda f, g: tfd.JointDistributionNamed({"z": f, "x": later(g)}),
    "coroutine": lambda f, g: tfd.JointDistributionCoroutine(lambda: coroutine(f, g)),
    "seq_auto_batched": lambda f, g: tfd.JointDistributionSequentialAutoBatched([f, later(g)]),
    "named_auto_batched": lambda f, g: tfd.JointDistributionNamedAutoBatched(
        {"z": f, "x": later(g)}
    ),
    "auto_batched": lambda f, g: tfd.JointDistributionCoroutineAutoBatched(lambda: coroutine(f, g)),
    "vectorized_map": lambda f, g: three(g),
    "independent": lambda f, g: tfd.Independent(three(g), 1),
    "mixture": lambda f, g: tfd.Mixture(tfd.Categorical(probs=[0.4, 0.6]), [f, f]),
    "mixture_same_family": lambda f, g: tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.2, 0.3, 0.5]), three(g)
    ),
    "sample": lambda f, g: tfd.Sample(f, 3),
    "batch_reshape": lambda f, g: tfd.BatchReshape(three(g), [3, 1]),
    "batch_broadcast": lambda f, g: tfd.BatchBroadcast(three(g), [2, 3]),
    "transformed": lambda f, g: tfd.TransformedDistribution(f, tfb.Scale(2.0)),
}


@pytest.mark.parametrize("family, place", marked(DRAWN, QUICK_DRAWS))
def test_draws_and_their_densities(pair, family, place):
    distribution = place(*pair(family))

    @tf.function(autograph=False)
    def drawn():
        draws = distribution.sample(6, seed=[0, 1])
        both = distribution.experimental_sample_and_log_prob(6, seed=[0, 1])
        return draws, both, distribution.log_prob(tf.nest.map_structure(tf.identity, draws))

    draws, (again, log_prob), expected = drawn()
    for a, b in zip(tf.nest.flatten(draws), tf.nest.flatten(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    batch = distribution.batch_shape
    assert log_prob.shape == [6, *(() if isinstance(batch, list | dict | tuple) else batch)]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3, atol=1e-3)


def marked_families(*quick):
    marks = {family: () if family in quick else pytest.mark.slow for family in VECTORS}
    return pytest.mark.parametrize("family", [pytest.param(f, marks=marks[f]) for f in VECTORS])


def target(z):
    return tf.reduce_sum(tfd.Normal([1.0, -1.0], 0.5).log_prob(z), axis=-1)


@marked_families("maf")
def test_hmc_through_a_flow(pair, family):
    kernel = tfm.TransformedTransitionKernel(
        tfm.HamiltonianMonteCarlo(target, 0.05, 3), bijector=pair(family)[0].bijector
    )
    run = tf.function(
        lambda: tfm.sample_chain(
            10,
            tf.ones([20, 2]),
            kernel=kernel,
            trace_fn=lambda _, results: results.inner_results.is_accepted,
            seed=[0, 1],
        ),
        autograph=False,
    )
    draws, accepted = run()
    assert np.isfinite(draws).all() and np.mean(accepted) > 0.9


@marked_families("iaf")
def test_variational_losses_have_all_gradients(family):
    # Flows of its own: between tests gradients of traces are forgotten, see conftest.
    flow, given = made(family)
    # A flow's shift and scale do not reach the density of its own draws twice: all count.
    for surrogate in (flow, given.condition([0.5])):
        with tf.GradientTape() as tape:
            loss = tfp.vi.monte_carlo_variational_loss(
                target, surrogate, sample_size=8, seed=[0, 1]
            )
        assert np.isfinite(loss)
        variables = surrogate.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            assert gradient is not None, variable.name
            assert np.isfinite(tf.convert_to_tensor(gradient)).all(), variable.name


@pytest.mark.parametrize("make", [flows.iaf, flows.real_nvp])
def test_a_default_name_is_not_taken_for_a_given_one(make):
    """A joint distribution names its parts after the arguments of the functions that follow."""
    flow, named = make((2,), 2, (8,)), make((2,), 2, (8,), name="mine")
    assert flow.name == make.__name__ and named.name == "mine"
    assert flow.copy().name == make.__name__ and named.copy().name == "mine"
    after = lambda a: tfd.Normal(tf.reduce_sum(a, axis=-1), 1.0)  # noqa: E731
    for joint in (
        tfd.JointDistributionSequential([flow, after]),
        tfd.JointDistributionSequentialAutoBatched([flow, after]),
    ):
        assert joint._flat_resolve_names()[0] == "a"
        assert joint.log_prob(joint.sample(3, seed=[0, 1])).shape == [3]
    with pytest.raises(ValueError, match="Inconsistent names"):
        tfd.JointDistributionSequential([named, after]).log_prob(tf.zeros([2]), 0.0)
