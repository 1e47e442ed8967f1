"""One flow in many traces, threads and copies; many flows from one line of code."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small_flows import moved, ready_made, small

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp

tfd = tfp.distributions

CONTEXTS = tf.constant([[0.0], [1.0], [-2.0]])


class Counted(tf.Module):
    """A conditioner that counts how often Python runs it."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable([[0.3, -0.2]])
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return tf.tanh(x * self.weight)


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: fb.Repeat(b, 2)], ids=["plain", "repeat"])
def test_no_retracing_of_a_traced_log_prob(wrap):
    net = Counted()
    bijector = wrap(fb.AffineCoupling(net))
    flow = flows.distributions.Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), bijector)
    net.calls = 0
    log_prob = tf.function(
        lambda x: flow.log_prob(x), input_signature=[tf.TensorSpec([None, 2], tf.float32)]
    )
    for size in (1, 7, 3, 0, 7, 64):
        x = tf.random.normal([size, 2])
        np.testing.assert_allclose(log_prob(x), flow.log_prob(tf.identity(x)), atol=1e-5)
        if size == 1:
            flow.log_prob(tf.zeros([0, 2]))  # an empty batch has a trace of its own
            after_the_first = net.calls
    if isinstance(bijector, fb.Repeat):  # runs in a graph of its own, eager mode included
        assert net.calls == after_the_first
    assert log_prob.experimental_get_tracing_count() == 1

    relaxed = tf.function(lambda x: flow.log_prob(x), reduce_retracing=True)
    for size in (1, 7, 3, 5, 64):
        relaxed(tf.random.normal([size, 2]))
    assert relaxed.experimental_get_tracing_count() == 2  # the first shape, then any


@pytest.fixture
def warnings_of_retracing():
    messages = []

    class Handler(logging.Handler):
        def emit(self, record):
            if "retracing" in record.getMessage():
                messages.append(record.getMessage())

    handler = Handler()
    tf.get_logger().addHandler(handler)
    yield messages
    tf.get_logger().removeHandler(handler)


def test_many_flows_are_not_warned_of_as_retracing(warnings_of_retracing):
    for _ in range(6):
        repeat = fb.Repeat(fb.ActNorm(2), 2)
        flow = flows.distributions.Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), repeat)
        flows.initialize(flow, tf.random.normal([16, 2]))
        flow.log_prob(flow.sample(3, seed=[0, 1]))
        flow.log_prob(tf.zeros([5, 2]))
    assert warnings_of_retracing == []
    for rank in range(7):  # each rank is another trace: this warning is a true one
        flow.log_prob(tf.zeros([1] * rank + [2]))
    assert warnings_of_retracing


def test_flow_as_argument_of_a_function():
    """It goes by identity, as a constant: one trace a flow, whose variables stay live."""
    flow = ready_made()
    assert tf.nest.flatten(flow, expand_composites=True) == [flow]  # no composite tensor
    x = tf.constant([[0.5, -1.0]])

    @tf.function(autograph=False)
    def evaluate(flow, bijector, x):
        with tf.GradientTape() as tape:
            log_prob = flow.log_prob(x) + bijector.inverse_log_det_jacobian(x, 1)
        return log_prob, tape.gradient(log_prob, flow.trainable_variables)

    for _ in range(3):
        value, gradients = evaluate(flow, flow.bijector, x)
        expected = flow.log_prob(x) + flow.bijector.inverse_log_det_jacobian(x, 1)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert all(np.any(g) for g in gradients)
        for variable in flow.trainable_variables:
            variable.assign_add(0.1 * tf.ones_like(variable))
    assert evaluate.experimental_get_tracing_count() == 1
    other = ready_made()
    evaluate(other, other.bijector, x)
    assert evaluate.experimental_get_tracing_count() == 2
    with pytest.raises(TypeError, match="Flow"):
        tf.function(lambda: flow)()


def reversible_chain():
    parts = [
        fb.AffineCoupling(mlp(2, 4, (8,))),
        fb.Invertible1x1Conv(4, seed=0),
        fb.AffineCoupling(mlp(2, 4, (8,)), swap=True),
    ]
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
    return moved(flows.distributions.Flow(base, fb.Chain(parts, reversible=True)))


def drifting():
    return moved(flows.ffjord(event_shape=(2,), hidden=(4,), solver="fixed", num_steps=2))


THREADS = 6


@pytest.mark.parametrize(
    "make", [ready_made, reversible_chain, pytest.param(drifting, marks=pytest.mark.slow)]
)
def test_threads_share_a_flow(make, warnings_of_retracing):
    """Eager calls and traces at the same time, before anything is traced."""
    flow = make()
    inputs = [tf.random.stateless_normal([3, *flow.event_shape], [i, 0]) for i in range(THREADS)]
    gate = threading.Barrier(THREADS)

    def value_and_gradients(x):
        with tf.GradientTape() as tape:
            log_prob = flow.log_prob(x)
        return log_prob, tape.gradient(log_prob, flow.trainable_variables)

    # Two functions of the same code, of which TensorFlow may warn.
    traced = [tf.function(value_and_gradients, autograph=False) for _ in range(2)]

    def work(i):
        gate.wait()
        evaluate = traced[i] if i < len(traced) else value_and_gradients
        order = [*range(i, THREADS), *range(i)]
        return {k: evaluate(inputs[k]) for k in order}

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS)))
    assert not any("_Traceable" in message for message in warnings_of_retracing)
    for k, x in enumerate(inputs):
        log_prob, gradients = value_and_gradients(tf.identity(x))  # by one thread alone
        for found in results:
            np.testing.assert_allclose(found[k][0], log_prob, rtol=1e-4, atol=1e-5)
            for one, right in zip(found[k][1], gradients, strict=True):
                np.testing.assert_allclose(one, right, rtol=1e-3, atol=1e-4)


def test_copies_share_variables():
    flow, given = ready_made(), ready_made(context_shape=(1,))
    x = tf.constant([[0.5, -1.0], [2.0, 0.3]])
    twin = flow.copy(name="twin")
    assert (twin.name, flow.name) == ("twin", "real_nvp")
    assert {id(v) for v in twin.variables} == {id(v) for v in flow.variables}
    rebuilt = type(flow)(**flow.parameters)
    part = flow.bijector.copy(name="part")
    assert part.name == "part" and {id(v) for v in part.variables} == {
        id(v) for v in flow.variables
    }
    for variable in twin.trainable_variables:
        variable.assign_add(0.1 * tf.ones_like(variable))
    for other in (twin, rebuilt):
        np.testing.assert_array_equal(other.log_prob(x), flow.log_prob(tf.identity(x)))
    np.testing.assert_array_equal(part.forward(x), flow.bijector.forward(tf.identity(x)))
    wide = flow.copy(distribution=tfd.Sample(tfd.Normal(0.0, 2.0), 2))
    assert not np.allclose(wide.log_prob(x), flow.log_prob(x))

    conditioned = given.condition(CONTEXTS)
    copied = conditioned.copy(context=CONTEXTS + 1.0)
    np.testing.assert_allclose(
        copied.log_prob(x[:1]), given.log_prob(x[:1], context=CONTEXTS + 1.0), rtol=1e-6
    )


def test_repr_is_short():
    deep = flows.glow(event_shape=(8, 8, 3), levels=2, steps=16, hidden=4)
    for described in (deep, small(context_shape=(1,)).condition(CONTEXTS), deep.bijector):
        text = repr(described)
        assert len(text) < 700 and "tf.Variable" not in text and "\n" not in text
        assert text == str(described)
    assert "16 x Chain" in repr(deep)
