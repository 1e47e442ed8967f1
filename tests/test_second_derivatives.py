"""Second derivatives of every bijector, as for a Hessian: right, or an error; no wrong numbers."""

import numpy as np
import pytest
import tensorflow as tf
from cases import BIJECTORS, each, make

# What is found by search, solved by an adjoint or rebuilt by inversion has first derivatives alone.
SEARCHED = {
    "forward": (
        "autoregressive",
        "flow_plus_plus",
        "maf",
        "mixture-context",
        "mixture-half",
        "mixture-image",
        "residual",
    ),
    "inverse": (
        "context-planar",
        "context-sylvester",
        "dequantizer",
        "iaf",
        "mixture-invert",
        "planar",
        "sylvester",
    ),
}
NEITHER = ("ode-adaptive", "ode-ffjord-context", "ode-hutchinson", "repeat-context", "repeat-image")
QUICK = ("affine-half", "chain-reversible", "mixture-half", "planar", "spline-half", "sylvester")


@each([n for n in BIJECTORS if not n.startswith("tfp-")], quick=lambda name: name in QUICK)
def test_right_or_refused(name):
    bijector, x, kwargs = make(name, tf.float64)
    arguments = {"forward": x, "inverse": tf.identity(bijector.forward(x, **kwargs))}
    for direction, argument in arguments.items():
        method = getattr(bijector, f"{direction}_and_log_det")
        derivatives = of(lambda a, f=method: f(a, **kwargs), bijector.trainable_variables[:2])
        if name.startswith((*SEARCHED[direction], *NEITHER)) or "reversible" in name:
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"second (derivatives|ones)"):
                derivatives(argument)
        else:
            check_against_differences(derivatives, argument, bijector.trainable_variables[:2])


def of(method, variables):
    """A function of the argument: a sum of its gradient's entries, and the gradient of that sum."""

    @tf.function(autograph=False)
    def derivatives(argument):
        sources = [argument, *variables]
        with tf.GradientTape() as outer:
            outer.watch(sources)
            with tf.GradientTape() as inner:
                inner.watch(sources)
                value, log_det = method(argument)
                total = tf.reduce_sum(tf.sin(value)) + tf.reduce_sum(log_det)
            slopes = inner.gradient(total, sources, unconnected_gradients="zero")
            slope = tf.add_n([tf.reduce_sum(tf.cos(s)) for s in slopes])
        return slope, outer.gradient(slope, sources, unconnected_gradients="zero")

    return derivatives


def check_against_differences(derivatives, argument, variables, step=1e-6):
    random = np.random.RandomState(0)
    _, (found, *of_variables) = derivatives(argument)
    way = random.normal(size=argument.shape)
    ends = [derivatives(argument + sign * step * way)[0] for sign in (1, -1)]
    check(found, way, ends, step)
    for variable, found in zip(variables, of_variables, strict=True):
        start, way = variable.numpy(), random.normal(size=variable.shape)
        ends = []
        for sign in (1, -1):
            variable.assign(start + sign * step * way)
            ends.append(derivatives(argument)[0])
        variable.assign(start)
        check(found, way, ends, step)


def check(found, way, ends, step):
    expected = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(np.sum(found * way), expected, rtol=1e-5, atol=1e-5)


@each(
    ["planar", "mixture-half", "autoregressive-affine", "residual", "chain-reversible"],
    quick=lambda name: name == "planar",
)
def test_refused_ones_are_nan_under_xla(name):
    """There are no errors in what XLA compiles, and 0 would look like a second derivative."""
    bijector, x, _ = make(name, tf.float64)
    forward = not name.startswith(SEARCHED["inverse"])
    method = bijector.forward_and_log_det if forward else bijector.inverse_and_log_det
    derivatives = of(method, bijector.trainable_variables[:1])
    slope, found = tf.function(derivatives, jit_compile=True)(x)
    assert np.isfinite(slope)  # the first ones are there
    for gradient in found:
        there = np.asarray(gradient)[~np.isnan(gradient)]
        if name.startswith("autoregressive"):  # weights that are masked have none, which is right
            assert len(there) < gradient.shape.num_elements() and not there.any()
        else:
            assert not len(there)
