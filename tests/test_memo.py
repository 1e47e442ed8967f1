"""No outdated value and no lost gradient, with one evaluation for value and log-det in graphs."""

import copy
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.core.evaluation import sharing

tfb, tfd = tfp.bijectors, tfp.distributions


class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable([[0.3, -0.2]])

    def __call__(self, x):
        return tf.tanh(x * self.weight)


CONTAINERS = {
    "alone": lambda b: b,
    "Chain": lambda b: fb.Chain([fb.ActNorm(2), b]),
    "tfb.Chain": lambda b: tfb.Chain([fb.ActNorm(2), b]),
    "tfb.Invert": lambda b: tfb.Invert(b),
    "tfb.Chain in tfb.Chain": lambda b: tfb.Chain([tfb.Chain([b])]),
}
IN_CONTAINER = pytest.mark.parametrize("wrap", CONTAINERS.values(), ids=CONTAINERS.keys())


def make(wrap):
    net = Net()
    bijector = wrap(fb.AffineCoupling(net))
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), bijector)
    return net, bijector, flow


@IN_CONTAINER
def test_same_tensor_after_an_update(wrap):
    net, bijector, flow = make(wrap)
    x = tf.constant([[0.5, -1.0], [2.0, 0.3]])
    held = [bijector.forward(x), bijector.inverse(x), flow.log_prob(x)]
    net.weight.assign([[1.0, 0.7]])
    for method in (bijector.forward, bijector.inverse, flow.log_prob):
        np.testing.assert_array_equal(method(x), method(tf.identity(x)))
    for method in (bijector.forward_log_det_jacobian, bijector.inverse_log_det_jacobian):
        np.testing.assert_array_equal(method(x, 1), method(tf.identity(x), 1))
    del held


@IN_CONTAINER
def test_output_after_an_update(wrap):
    net, bijector, _ = make(wrap)
    z = bijector.inverse(tf.constant([[0.5, -1.0]]))
    net.weight.assign([[1.0, 0.7]])
    np.testing.assert_array_equal(bijector.forward(z), bijector.forward(tf.identity(z)))
    np.testing.assert_array_equal(
        bijector.forward_log_det_jacobian(z, 1),
        bijector.forward_log_det_jacobian(tf.identity(z), 1),
    )


@IN_CONTAINER
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_update_inside_one_function(wrap, jit):
    net, _, flow = make(wrap)

    @tf.function(jit_compile=jit)
    def twice(x):
        before = flow.log_prob(x)
        net.weight.assign_add([[0.5, 0.5]])
        return before, flow.log_prob(x)

    x = tf.constant([[0.5, -1.0]])
    expected_before = flow.log_prob(x)
    before, after = twice(x)
    np.testing.assert_allclose(before, expected_before, rtol=1e-6)
    np.testing.assert_allclose(after, flow.log_prob(x), rtol=1e-6)
    assert not np.allclose(before, after)


@IN_CONTAINER
def test_an_update_is_seen_although_it_is_the_very_next_op(wrap):
    net, bijector, _ = make(wrap)

    @tf.function
    def twice(x, weight):
        before = bijector.inverse(x)
        assert bijector.inverse(x) is before  # known, so that this adds no op
        net.weight.assign(weight, read_value=False)
        return before, bijector.inverse(x)

    x, weight = tf.constant([[0.5, -1.0]]), tf.constant([[1.0, 0.7]])
    before, after = twice(x, weight)
    np.testing.assert_allclose(after, bijector.inverse(x), rtol=1e-6)
    assert not np.allclose(before, after)


@IN_CONTAINER
def test_alternating_values(wrap):
    """The second of two equal states may not be taken for the one between them."""
    net, bijector, _ = make(wrap)
    x = tf.constant([[0.5, -1.0]])
    seen = []
    for weight in ([[0.1, 0.2]], [[0.3, 0.4]], [[0.1, 0.2]], [[0.3, 0.4]]):
        net.weight.assign(weight)
        seen.append(bijector.forward(x))
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[1], seen[3])
    assert not np.allclose(seen[0], seen[1])


@IN_CONTAINER
def test_gradient_on_a_tensor_seen_before(wrap):
    """A result from outside a tape has no gradient, so a tape may not be given it."""
    net, bijector, flow = make(wrap)
    x = tf.constant([[0.5, -1.0]])
    with tf.GradientTape() as tape:
        expected = tape.gradient(flow.log_prob(tf.identity(x)), net.weight)
    held = bijector.inverse(x), bijector.inverse_log_det_jacobian(x, 1)
    for _ in range(2):  # a tape of its own each time, and no update between them
        with tf.GradientTape() as tape:
            loss = flow.log_prob(x)
        np.testing.assert_allclose(tape.gradient(loss, net.weight), expected, rtol=1e-5)
    del held


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("what", ["input", "output", "variable"])
def test_gradient_of_a_tape_within_a_tape(what, traced):
    net, bijector, _ = make(CONTAINERS["alone"])

    def inner_gradient(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            y = bijector.forward(x)
            of = {"input": x, "output": y, "variable": net.weight}[what]
            with tf.GradientTape() as inner:
                if what != "variable":
                    inner.watch(of)
                again = bijector.inverse(y) if what == "output" else bijector.forward(x)
            return inner.gradient(again, of)

    x = tf.constant([[0.5, -1.0]])
    y = bijector.forward(tf.identity(x))
    with tf.GradientTape() as tape:
        fresh = tf.identity(y if what == "output" else x)
        tape.watch(fresh)
        value = bijector.inverse(fresh) if what == "output" else bijector.forward(fresh)
    expected = tape.gradient(value, net.weight if what == "variable" else fresh)
    found = tf.function(inner_gradient)(x) if traced else inner_gradient(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_deep_copies_are_their_own():
    original = fb.ActNorm(2)
    twin = copy.deepcopy(original)
    twin.shift.assign([5.0, 5.0])
    np.testing.assert_array_equal(twin.forward([[0.0, 0.0]]), [[5.0, 5.0]])
    np.testing.assert_array_equal(original.forward([[0.0, 0.0]]), [[0.0, 0.0]])


def dropped(x):
    return tf.nn.dropout(tf.concat([x, x], -1) + 1.0, 0.5)


@pytest.mark.parametrize("wrap", ["alone", "tfb.Chain", "Chain"])
def test_dropout_is_one_draw_for_value_and_log_det_in_a_graph(wrap):
    bijector = CONTAINERS[wrap](fb.AffineCoupling(dropped))

    @tf.function
    def run(x):
        y, log_det = bijector.forward(x), bijector.forward_log_det_jacobian(x, 1)
        return y, log_det, bijector.inverse(y), bijector.inverse_log_det_jacobian(y, 1)

    x = tf.random.normal([64, 2])
    y, log_det, back, minus_log_det = run(x)
    # Each draw pairs one shift with one scale; to undo it must use the same draw.
    np.testing.assert_allclose(back, x, atol=1e-5)
    np.testing.assert_allclose(minus_log_det, -log_det, atol=1e-6)
    check_one_draw(x, y, log_det)


def check_one_draw(x, y, log_det):
    """Dropout makes shift and log-scale 0 or 2 (1 + x), each by a draw of its own."""
    shift = y[:, 1] - x[:, 1] * tf.exp(log_det)
    rest = tf.minimum(tf.abs(shift), tf.abs(shift - 2 * (1 + x[:, 0])))
    np.testing.assert_allclose(rest, 0.0, atol=1e-5)


@pytest.mark.parametrize("wrap", ["alone", "tfb.Chain", "tfb.Invert", "Chain"])
def test_dropout_is_one_draw_in_eager_chains_and_flows(wrap):
    bijector = fb.Chain([CONTAINERS[wrap](fb.AffineCoupling(dropped))])
    x = tf.random.normal([64, 2])
    if wrap == "tfb.Invert":
        y, minus_log_det = bijector.inverse_and_log_det(x)
        check_one_draw(x, y, minus_log_det)
    else:
        check_one_draw(x, *bijector.forward_and_log_det(x))


def test_the_memo_keeps_no_tensor_alive():
    _, bijector, flow = make(CONTAINERS["Chain"])
    x = tf.random.normal([8, 2])
    flow.log_prob(x)
    z = bijector.inverse(x)
    alive = weakref.ref(z)
    del z, x
    gc.collect()
    assert alive() is None


def test_eager_evaluations_are_shared_within_a_block_of_sharing_alone():
    calls = []
    bijector = fb.AffineCoupling(lambda x: (calls.append(1), tf.concat([x, x], -1))[1])
    chain = tfb.Chain([bijector])
    x = tf.constant([[0.5, -1.0]])

    def evaluations():
        calls.clear()
        held = chain.forward(x), chain.forward_log_det_jacobian(x, 1), chain.inverse(x)
        return len(calls), held

    alone, _ = evaluations()
    for _ in range(2):  # a block knows nothing of the one before
        with sharing():
            assert evaluations()[0] == 2
            with sharing():
                assert evaluations()[0] == 0
    assert evaluations()[0] == alone > 2
    with sharing():
        y = chain.forward(x)
    alive = weakref.ref(y)
    del y
    gc.collect()
    assert alive() is None


def test_a_gradient_within_a_block_of_sharing():
    net, bijector, _ = make(CONTAINERS["alone"])
    x = tf.constant([[0.5, -1.0]])
    with sharing():
        bijector.forward(x)
        with tf.GradientTape() as tape:
            y = bijector.forward(x)
    assert tape.gradient(y, net.weight) is not None


def test_one_trace_for_a_bijector_that_is_an_argument():
    net, bijector, _ = make(CONTAINERS["alone"])
    traces = []

    @tf.function
    def run(b, x):
        traces.append(1)
        return b.forward(x)

    x = tf.constant([[0.5, -1.0]])
    for weight in ([[0.1, 0.2]], [[0.3, 0.4]]):
        net.weight.assign(weight)
        np.testing.assert_allclose(run(bijector, x), bijector.forward(x), rtol=1e-6)
    assert len(traces) == 1


def test_a_write_in_a_loop_is_seen():
    """The loop's body is a graph of its own, in which something else stands for the variable."""
    net, bijector, _ = make(CONTAINERS["tfb.Chain"])

    @tf.function
    def run(x):
        def body(i, first, second):
            first = bijector.forward(x)
            net.weight.assign_add([[0.5, 0.5]])
            return i + 1, first, bijector.forward(x)

        return tf.while_loop(lambda i, *_: i < 1, body, (0, x, x))[1:]

    x = tf.constant([[0.5, -1.0]])
    expected = bijector.forward(x)
    first, second = run(x)
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    np.testing.assert_allclose(second, bijector.forward(x), rtol=1e-6)
    assert not np.allclose(first, second)


def test_tracing_looks_at_each_op_once(monkeypatch):
    """Or a long chain would take a time that grows with the square of its length."""
    looks = []

    class Ops(list):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            looks.append(len(found))
            return found

    operations = tf.Graph.get_operations
    monkeypatch.setattr(tf.Graph, "get_operations", lambda graph: Ops(operations(graph)))
    chain = tfb.Chain([fb.ActNorm(2) for _ in range(8)])
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), chain)
    graph = tf.function(flow.log_prob).get_concrete_function(tf.ones([3, 2])).graph
    assert 0 < sum(looks) <= 2 * len(operations(graph))  # TensorFlow's control edges look once


def test_traced_graphs_are_let_go():
    _, _, flow = make(CONTAINERS["tfb.Chain"])
    function = tf.function(flow.bijector.bijectors[1].forward)
    graph = weakref.ref(function.get_concrete_function(tf.ones([3, 2])).graph)
    del function
    gc.collect()
    assert graph() is None


def test_contexts_are_told_apart():
    bijector = fb.AffineCoupling(lambda a, c: tf.concat([a + c, a * c], -1))
    x = tf.constant([[0.5, -1.0]])
    one, two = tf.constant([[1.0]]), tf.constant([[2.0]])
    results = [bijector.forward(x, context=c).numpy() for c in (one, two, one)]
    np.testing.assert_array_equal(results[0], results[2])
    assert not np.allclose(results[0], results[1])
    log_dets = [bijector.forward_log_det_jacobian(x, context=c).numpy() for c in (one, two)]
    assert not np.allclose(*log_dets)


def test_equal_arguments_share_nothing():
    one, two = fb.ActNorm(2), fb.ActNorm(2)
    one.shift.assign([1.0, 1.0])
    x = tf.zeros([1, 2])
    assert one != two and one == one
    assert not np.allclose(one.forward(x), two.forward(x))


def test_untracked_variables_are_refused():
    hidden = tf.Variable([[0.3, 0.3]], name="hidden_weight")
    coupling = fb.AffineCoupling(lambda a: a * hidden)
    with pytest.raises(flows.UntrackedVariableError, match="hidden_weight"):
        coupling.forward(tf.ones([1, 2]))
    with pytest.raises(flows.UntrackedVariableError, match="hidden_weight"):
        tf.function(coupling.forward)(tf.ones([1, 2]))


def test_unbuilt_network_says_so():
    from tfp_flows.keras_engine import keras

    coupling = fb.AffineCoupling(keras.Sequential([keras.layers.Dense(2)], name="lazy_net"))
    with pytest.raises(ValueError) as caught:
        _ = tfb.Chain([coupling]).trainable_variables
    assert "lazy_net" in str(caught.value) or "lazy_net" in str(caught.value.__cause__)
    coupling.forward(tf.ones([1, 2]))
    assert len(tfb.Chain([coupling]).trainable_variables) == 2
