"""The contract of every bijector of the package.

`check_bijector` holds them against autodiff at the square root of the machine epsilon; float64
makes that 1.5e-8, so a wrong term cannot hide. XLA is compared once, in float32.
"""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from cases import BIJECTORS, SEARCHED_DENSITIES, SEARCHES, SOLVES, XLA_ALWAYS, each, make

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.core import Network
from tfp_flows.core.stack import networks
from tfp_flows.distributions import Flow

tfb, tfd = tfp.bijectors, tfp.distributions


EVERY = each(BIJECTORS)
OURS = [n for n in BIJECTORS if not n.startswith("tfp-")]
BARE = (
    "actnorm",
    "conv1x1",
    "squeeze",
    "multiscale",
    "chain-reshape",
    "rotation",
    "householder",
    "qr",
    "batchnorm",
    "standardize",
    "logit",
    "planar",
    "radial",
    "sylvester",
)
CONDITIONED = [n for n in BIJECTORS if not n.startswith((*BARE, *SEARCHED_DENSITIES, *SOLVES))]


@EVERY
def test_float64_against_autodiff(name, tmp_path):
    """All of the contract on one bijector, whose traces the parts share."""
    bijector, x, kwargs = make(name, tf.float64)
    assert flows.check_bijector(bijector, x, **kwargs).faults == []
    if name in OURS:
        check_both_results_at_once(bijector, x, kwargs)
    check_copy_shares_variables(bijector, x, kwargs)
    check_save_and_restore(bijector, x, kwargs, str(tmp_path / "checkpoint"))


def check_both_results_at_once(bijector, x, kwargs):
    y, fldj = bijector.forward_and_log_det(x, **kwargs)
    back, ildj = bijector.inverse_and_log_det(tf.identity(y), **kwargs)
    np.testing.assert_allclose(back, x, atol=1e-8)
    np.testing.assert_allclose(fldj, -ildj, atol=1e-8)
    np.testing.assert_allclose(y, bijector.forward(tf.identity(x), **kwargs), atol=1e-12)


def check_copy_shares_variables(bijector, x, kwargs):
    twin = bijector.copy()
    assert {id(v) for v in twin.variables} == {id(v) for v in bijector.variables}
    expected = bijector.forward(tf.identity(x), **kwargs)
    np.testing.assert_array_equal(twin.forward(x, **kwargs), expected)


def check_save_and_restore(bijector, x, kwargs, path):
    expected = bijector.forward(x, **kwargs).numpy()
    saved = tf.train.Checkpoint(bijector=bijector).write(path)
    for variable in bijector.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    tf.train.Checkpoint(bijector=bijector).read(saved).assert_consumed()
    np.testing.assert_array_equal(bijector.forward(x, **kwargs), expected)


@each(BIJECTORS, quick=lambda name: name in XLA_ALWAYS)
def test_float32_and_xla(name):
    bijector, x, kwargs = make(name, tf.float32)
    assert flows.check_bijector(bijector, x, **kwargs, xla=True).faults == []


CONTAINERS = {
    "plain": lambda b: b,
    "ours": lambda b: fb.Chain([tfb.Identity(), b]),
    "chain": lambda b: tfb.Chain([tfb.Identity(), b]),
    "invert": lambda b: tfb.Invert(tfb.Invert(b)),
    "nested": lambda b: tfb.Invert(tfb.Chain([tfb.Invert(b)])),
}


@each(CONDITIONED)
def test_one_evaluation_per_log_prob(name, monkeypatch):
    bijector, x, kwargs = make(name, tf.float32)
    conditioners = networks(bijector)
    assert conditioners
    expected = len(conditioners) * (2 if name == "repeat-unrolled" else 1)
    calls = []
    original = Network.__call__
    monkeypatch.setattr(
        Network, "__call__", lambda self, *a, **k: (calls.append(self), original(self, *a, **k))[1]
    )

    def evaluations(function, *args):
        calls.clear()
        function(*args)
        return len(calls)

    zero = tf.zeros(x.shape[1:])
    base = tfd.Independent(tfd.Normal(zero, 1.0), x.shape.rank - 1)
    # A loop and what is reversible runs in a graph always, traced by the first call.
    loops = [m for m in (bijector, *bijector.submodules) if isinstance(m, fb.Repeat)]
    in_graph = loops or "reversible" in name
    for container, wrap in CONTAINERS.items():
        if kwargs and container not in ("plain", "ours"):
            continue  # a context does not pass through TFP's containers
        y = tf.identity(bijector.forward(tf.identity(x), **kwargs))
        context_shape = kwargs["context"].shape[1:] if kwargs else None
        flow = Flow(base, wrap(bijector), context_shape)
        of_tfp = flow if kwargs else tfd.TransformedDistribution(base, wrap(bijector))
        for density in (flow, of_tfp):  # one evaluation in a graph
            log_prob = functools.partial(density.log_prob, **kwargs)
            assert evaluations(tf.function(lambda y, f=log_prob: f(y)), y) == expected, container
            if not in_graph and container != "nested" and not name.startswith(SEARCHES):
                sample = functools.partial(density.experimental_sample_and_log_prob, **kwargs)
                assert evaluations(tf.function(lambda f=sample: f(3))) == expected, container
        log_prob = functools.partial(flow.log_prob, **kwargs)
        if in_graph:
            assert evaluations(log_prob, y) <= expected, container
            continue
        assert evaluations(log_prob, y) == expected, container  # a Flow needs no graph for it
        with tf.GradientTape():
            assert evaluations(log_prob, tf.identity(y)) == expected, container


def test_one_evaluation_in_the_graph():
    """The compiled step holds each network's products once: what a count of calls cannot show."""

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(tf.ones([2, 4]))

        def __call__(self, x):
            return tf.matmul(x, self.weight)

    parts = [fb.AffineCoupling(Net()), fb.AffineCoupling(Net(), swap=True)]
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
    for bijector in (tfb.Chain(parts), fb.Chain(parts)):
        flow = tfd.TransformedDistribution(base, bijector)

        @tf.function
        def step(x, flow=flow):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(flow.log_prob(x))
            return tape.gradient(loss, flow.trainable_variables)

        graph = step.get_concrete_function(tf.ones([3, 4])).graph
        products = [op for op in graph.get_operations() if op.type == "MatMul"]
        # Forward 2; backward 2 for the weights and 1 for the input that is not data.
        assert len(products) <= 6
