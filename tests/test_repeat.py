"""`Repeat` and reversible training: what they compute, and what they cost."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import conv, mlp
from tfp_flows.core import FlowBijector, UntrackedVariableError, variable_paths
from tfp_flows.core.init_state import InitState
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions
COUNT = 4


def make_step(seed: int) -> fb.Chain:
    net = mlp(2, 4, (5,), "tanh", dtype="float64")
    parts = [fb.ActNorm(4, tf.float64), fb.Invertible1x1Conv(4, seed, tf.float64)]
    return fb.Chain([*parts, fb.AffineCoupling(net)])


@pytest.fixture(scope="module")
def four_forms():
    """The same steps as a chain, a reversible chain, and loops of all kinds."""
    steps = [make_step(i) for i in range(COUNT)]
    random = np.random.RandomState(0)
    for variable in (v for s in steps for v in s.trainable_variables):
        variable.assign_add(0.1 * random.normal(size=variable.shape))
    given = iter(steps)
    repeat = fb.Repeat(lambda: next(given), COUNT)
    kinds = [(False, False), (True, False), (False, True), (True, True)]
    loops = {
        f"repeat reversible={reversible} unroll={unroll}": repeat.copy(
            reversible=reversible, unroll=unroll
        )
        for reversible, unroll in kinds
    }
    return {"chain": fb.Chain(steps), "reversible chain": fb.Chain(steps, True), **loops}, steps


def results(bijector, forward: bool, x, variables, xla: bool = False):
    """Value, log-det, and the gradients of a loss that needs both."""

    @tf.function(jit_compile=xla)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            both = bijector.forward_and_log_det if forward else bijector.inverse_and_log_det
            value, log_det = both(x)
            loss = tf.reduce_sum(tf.sin(value)) + tf.reduce_sum(tf.cos(log_det))
        return value, log_det, *tape.gradient(loss, [x, *variables])

    return run(x)


@pytest.mark.parametrize("forward", [True, False])
def test_every_form_has_the_values_and_gradients_of_the_chain(four_forms, forward):
    forms, steps = four_forms
    x = tf.constant(np.random.RandomState(1).normal(size=(7, 4)))
    paths = [p for p, v in variable_paths(steps[0]).items() if v.trainable]
    separate = [variable_paths(s)[p] for p in paths for s in steps]
    expected = results(forms["chain"], forward, x, separate)
    gradients = expected[3:]
    stacked = [tf.stack(gradients[i : i + COUNT]) for i in range(0, len(gradients), COUNT)]
    for name, form in forms.items():
        if "chain" in name:
            found = results(form, forward, x, separate)
            pairs = zip(found, expected, strict=True)
        else:
            mine = [form._stack.variables_by_path[p] for p in paths]
            found = results(form, forward, x, mine)
            pairs = zip(found, [*expected[:3], *stacked], strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["reversible chain", "repeat reversible=True unroll=False"])
def test_gradients_by_inversion_under_xla(four_forms, name):
    form = four_forms[0][name]
    x = tf.constant(np.random.RandomState(1).normal(size=(7, 4)))
    variables = form.trainable_variables
    plain = results(form, False, x, variables)
    for a, b in zip(results(form, False, x, variables, xla=True), plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_reversible_dropout_repeats_its_draws():
    """With the states of the generators set back, both gradients are of the same draw."""
    if not hasattr(keras, "random"):
        pytest.skip("tf_keras's dropout is refused instead")
    x = tf.constant(np.random.RandomState(0).normal(size=(6, 4)))

    def step():
        net = mlp(2, 4, (16,), dropout=0.5, dtype="float64")
        net.layers[-1].kernel.assign(np.random.RandomState(2).normal(size=(16, 4)))
        return fb.AffineCoupling(net)

    plain = fb.Repeat(step, 3)
    states = [v for v in plain.variables if not v.dtype.is_floating]
    assert len(states) == 1
    start = states[0].numpy()

    class Model(keras.Model):  # in training mode
        def __init__(self, bijector):
            super().__init__(dtype="float64")
            self.bijector = bijector

        def call(self, x, training=None):
            with tf.GradientTape() as tape:
                value, log_det = self.bijector.inverse_and_log_det(x)
                loss = tf.reduce_sum(value**2) + tf.reduce_sum(log_det)
            return loss, tape.gradient(loss, self.bijector.trainable_variables)

    outcomes = []
    for bijector in (plain, plain.copy(reversible=True), plain.copy(reversible=True, unroll=True)):
        states[0].assign(start)
        model = Model(bijector)
        outcomes.append(tf.function(lambda x, model=model: model(x, training=True))(x))
        moved = np.any(states[0].numpy() != start, axis=-1)
        assert np.all(moved)  # every step's next draw is another
    for loss, gradients in outcomes[1:]:
        np.testing.assert_allclose(loss, outcomes[0][0], rtol=1e-12)
        for a, b in zip(gradients, outcomes[0][1], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)


def step_graph(flow, x) -> tf.Graph:
    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        return tape.gradient(loss, flow.trainable_variables)

    return step.get_concrete_function(x).graph


def count_ops(graph: tf.Graph, kind: str) -> int:
    """How many ops of a kind a graph holds, in the bodies of its loops too."""
    definition = graph.as_graph_def(add_shapes=False)
    nodes = list(definition.node)
    nodes += [n for f in definition.library.function for n in f.node_def]
    return sum(kind == "" or n.op == kind for n in nodes)


def small_glow(steps: int, **kwargs):
    return flows.glow((8, 8, 1), 2, steps, 4, split_prior=False, seed=0, **kwargs)


def test_a_training_step_holds_every_convolution_once():
    x = tf.zeros([3, 8, 8, 1])
    plain = step_graph(small_glow(2, stacked=False), x)
    networks = 2 * 2  # levels x steps, of three convolutions each
    assert count_ops(plain, "Conv2D") == 3 * networks
    assert count_ops(plain, "Conv2DBackpropFilter") == 3 * networks
    assert count_ops(plain, "Conv2DBackpropInput") <= 3 * networks
    # By inversion once more, which serves both the inversion and the gradient.
    rebuilt = step_graph(small_glow(2, stacked=False, reversible=True), x)
    assert count_ops(rebuilt, "Conv2D") == 2 * 3 * networks


def test_the_graph_does_not_grow_with_depth():
    x = tf.zeros([3, 8, 8, 1])
    for reversible in (False, True):
        sizes = [count_ops(step_graph(small_glow(n, reversible=reversible), x), "") for n in (2, 9)]
        assert sizes[1] <= sizes[0] + 10  # how a large block of zeros is made


def test_the_reversible_loop_keeps_no_activations():
    """What a loop keeps for its gradient it pushes onto lists."""
    x = tf.zeros([3, 8, 8, 1])
    kept = [
        count_ops(step_graph(small_glow(3, reversible=r), x), "TensorListPushBack")
        for r in (False, True)
    ]
    assert kept[0] > 0
    assert kept[1] == 0


def test_gradients_by_inversion_of_a_deep_glow():
    """32 steps a level: rebuilt activations drift by rounding, and the gradients stay right."""
    shape = (16, 16, 1)
    keras.utils.set_random_seed(0)
    plain = flows.glow(shape, 2, 32, 8, seed=0)
    other = flows.glow(shape, 2, 32, 8, seed=0, reversible=True)
    random = np.random.RandomState(0)
    for a, b in zip(plain.trainable_variables, other.trainable_variables, strict=True):
        a.assign_add(0.02 * random.normal(size=a.shape))
        b.assign(a)
    x = tf.constant(random.uniform(-0.5, 0.5, size=(4, *shape)), tf.float32)
    for flow in (plain, other):
        flows.initialize(flow, x)

    def gradients(flow):
        @tf.function
        def run(x):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(flow.log_prob(x))
            return tape.gradient(loss, flow.trainable_variables)

        return run(x)

    for a, b in zip(gradients(other), gradients(plain), strict=True):
        # 64 steps in float32, each good to 1e-7 times a condition number of some tens.
        assert tf.norm(a - b) <= 2e-4 * tf.norm(b) + 1e-6


def test_low_precision_networks_keep_the_flow_exact():
    flow = flows.real_nvp((4,), 4, (8,), network_dtype="mixed_bfloat16", reversible=True)
    for v in flow.trainable_variables:
        v.assign_add(0.1 * tf.random.stateless_normal(v.shape, [0, 1]))
    x = tf.random.stateless_normal([50, 4], [1, 2])
    assert flow.log_prob(x).dtype == tf.float32
    back = flow.bijector.forward(tf.identity(flow.bijector.inverse(x)))
    off = np.abs(back - x).max(-1)
    # Bfloat16 itself is good to 1e-2 only; a network may round float32's last digit to another
    # number in some rows, which ones depends on the processor.
    assert np.quantile(off, 0.9) < 1e-5
    assert off.max() < 0.1
    assert all(v.dtype == tf.float32 for v in flow.trainable_variables)


# Bad input


def test_what_cannot_be_repeated():
    widths = iter([(5,), (6,)])
    with pytest.raises(ValueError, match="equal in structure"):
        fb.Repeat(lambda: fb.AffineCoupling(mlp(2, 4, next(widths))), 2)
    with pytest.raises(ValueError, match="count must be 1 or more"):
        fb.Repeat(fb.ActNorm(4), 0)
    with pytest.raises(ValueError, match="keep the shape"):
        fb.Repeat(fb.Squeeze(), 2).inverse(tf.zeros([1, 4, 4, 4]))


def test_a_step_that_updates_itself_is_refused():
    net = keras.Sequential(
        [
            keras.layers.Input((2,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4),
        ]
    )
    model = flows.FlowModel(
        flows.distributions.Flow(
            tfd.Sample(tfd.Normal(0.0, 1.0), 4),
            fb.Repeat(fb.AffineCoupling(net), 2),
        )
    )
    model.compile()
    with pytest.raises(ValueError, match="as batch normalisation does"):
        model.fit(np.zeros([8, 4], "float32"), verbose=0)


@pytest.mark.parametrize("change, left", [("assign_sub", 9), ("assign_add", 11), ("assign", 1)])
def test_a_network_in_a_step_sees_what_it_assigns(change, left):
    """As counters and random states of networks do: a later read gives the new value."""

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.state = tf.Variable(10, trainable=False)

        def __call__(self, x):
            getattr(self.state, change)(1)
            return x * tf.cast(self.state, x.dtype)

    steps = 2
    repeat = fb.Repeat(fb.AdditiveCoupling(Net()), steps)
    np.testing.assert_allclose(repeat.forward([[1.0, 0.0]]), [[1.0, steps * left]])


def test_a_network_compiled_on_its_own_is_refused():
    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(tf.ones([2, 4]))

        @tf.function
        def __call__(self, x):
            return tf.matmul(x, self.weight)

    net = Net()
    spec = tf.TensorSpec([None, 2])
    net.__call__.get_concrete_function(spec)  # traced before, with the variable itself
    with pytest.raises(
        UntrackedVariableError, match=r"a tf\.function around a part of the network"
    ):
        fb.Repeat(fb.AffineCoupling(net), 2).forward(tf.zeros([1, 4]))


def test_draws_that_cannot_be_repeated_are_refused():
    net = tf_keras.Sequential(
        [tf_keras.layers.Dense(4, input_shape=(2,)), tf_keras.layers.Dropout(0.5)]
    )
    with pytest.raises(ValueError, match="draws other numbers"):
        fb.Repeat(fb.AffineCoupling(net), 2, reversible=True)
    with pytest.raises(ValueError, match="draws other numbers"):
        fb.Chain([fb.AffineCoupling(net)], reversible=True)
    fb.Repeat(fb.AffineCoupling(net), 2).forward(tf.zeros([1, 4]))


def test_regularisers_count_every_step():
    def flow(stacked):
        keras.utils.set_random_seed(0)
        net = lambda: keras.Sequential(  # noqa: E731
            [
                keras.layers.Input((2,)),
                keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1)),
            ]
        )
        if stacked:
            bijector = fb.Repeat(lambda: fb.AffineCoupling(net()), 3)
        else:
            bijector = fb.Chain([fb.AffineCoupling(net()) for _ in range(3)])
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
        model = flows.FlowModel(flows.distributions.Flow(base, bijector))
        model.compile()
        return model.evaluate(np.ones([8, 4], "float32"), verbose=0, return_dict=True)["loss"]

    assert flow(True) == pytest.approx(flow(False), rel=1e-5)


def test_convolutions_of_a_repeated_step_differ():
    """Every step starts with its own draw."""
    repeat = fb.Repeat(lambda: fb.AffineCoupling(conv((2, 2, 2), 4, 3), mask="channel"), 2)
    kernel = next(v for p, v in repeat._stack.variables_by_path.items() if "kernel" in p)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01


class Table(tf.Module):
    """A conditioner that reads a variable in a way of its own, and writes another."""

    def __init__(self, read, start: float, write=None):
        super().__init__()
        self.table = tf.Variable(start * tf.reshape(tf.range(8.0), [2, 4]), name="table")
        self.calls = tf.Variable([10, 20], trainable=False, name="calls")
        self.switch = tf.Variable(False, trainable=False, name="switch")
        self._read, self._write = read, write

    def __call__(self, x):
        if self._write is not None:
            self._write(self)
        return tf.reshape(self._read(self.table), [1, 4]) + 0.0 * tf.concat([x, x], -1)


def raw_read(variable):
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)[1]


READS = {
    "indexing": lambda v: v[1],
    "gather": lambda v: tf.gather(v, [1]),
    "gather_nd": lambda v: tf.gather_nd(v, [[1]]),
    "gather_nd of numbers": lambda v: tf.gather_nd(v, [[1, i] for i in range(4)]),
    "embedding": lambda v: tf.nn.embedding_lookup(v, [1]),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_step_reads_its_own_variables(read):
    layers = [fb.AffineCoupling(Table(read, start)) for start in (0.1, -0.2)]
    given = iter(layers)
    repeat, chain = fb.Repeat(lambda: next(given), 2), fb.Chain(layers)
    reversible = fb.Chain(layers, reversible=True)
    x = tf.constant(np.random.RandomState(0).normal(size=(3, 4)), tf.float32)
    for form in (repeat, reversible):
        for found, right in zip(
            form.forward_and_log_det(x), chain.forward_and_log_det(x), strict=True
        ):
            np.testing.assert_allclose(found, right, rtol=1e-5)


PAST_PYTHON = {
    "raw read": dict(read=raw_read),
    "scatter": dict(
        read=lambda v: v[1],
        write=lambda t: t.table.scatter_add(tf.IndexedSlices(tf.ones([1, 4]), [0])),
    ),
    "slice": dict(read=lambda v: v[1], write=lambda t: t.table[0].assign(tf.ones([4]))),
}


@pytest.mark.parametrize("kind", PAST_PYTHON)
@pytest.mark.parametrize("wrap", [fb.Repeat, fb.Chain])
def test_variables_that_are_used_past_python_are_refused_by_name(kind, wrap):
    layer = fb.AffineCoupling(Table(start=0.1, **PAST_PYTHON[kind]))
    bijector = fb.Repeat(layer, 2) if wrap is fb.Repeat else fb.Chain([layer], reversible=True)
    with pytest.raises(UntrackedVariableError, match="table"):
        tf.function(bijector.forward)(tf.zeros([3, 4]))


WRITES = {
    "assign": (lambda v: v.assign(3 * v), 3 * np.array([10, 20])),
    "assign_add": (lambda v: v.assign_add([5, 6]), np.array([15, 26])),
    "assign_sub": (lambda v: v.assign_sub([5, 6]), np.array([5, 14])),
}


@pytest.mark.parametrize("unroll, reversible", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("kind", WRITES)
def test_whole_numbers_that_a_step_writes(kind, unroll, reversible):
    write, after = WRITES[kind]
    layer = fb.AffineCoupling(Table(lambda v: v[1], 0.1, lambda t: write(t.calls)))
    repeat = fb.Repeat(layer, 2, reversible, unroll)
    (calls,) = [v for v in repeat.variables if v.dtype == tf.int32]
    calls.assign(calls + [[0, 0], [100, 100]])
    expected = np.stack([after, after + (300 if kind == "assign" else 100)])
    tf.function(repeat.forward)(tf.zeros([3, 4]))
    np.testing.assert_array_equal(calls, expected)


class Centred(FlowBijector):
    """A data-dependent bijector of a user's own."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=1, parameters={}, name="centred")
        self.mean = tf.Variable(tf.zeros([4]))
        self.seen = tf.Variable(False, trainable=False)

    def _init_states(self):
        return [InitState(self.seen, (self.mean,))]

    def _initialize(self, y, context):
        self.mean.assign(tf.reduce_mean(y, 0))
        self.seen.assign(True)
        return self._inverse_and_log_det(y, context)[0]

    def _forward_and_log_det(self, x, context):
        return x + self.mean, tf.zeros(tf.shape(x)[:-1])

    def _inverse_and_log_det(self, y, context):
        return y - self.mean, tf.zeros(tf.shape(y)[:-1])


@pytest.mark.parametrize("part", [lambda: fb.ActNorm(4), Centred])
def test_a_repeat_waits_while_one_of_its_steps_waits(part):
    plain = fb.AffineCoupling(Table(lambda v: v[1], 0.0))
    assert not fb.Repeat(plain, 2).needs_initialization  # its boolean is no flag
    repeat = fb.Repeat(fb.Chain([part(), plain]), 2)
    nested = fb.Chain([fb.Repeat(repeat, 2)])
    assert repeat.needs_initialization and nested.needs_initialization
    y = tf.constant(np.random.RandomState(0).normal(size=(9, 4)), tf.float32)
    for bijector in (repeat, nested):
        bijector._initialize(y, None)
        assert not bijector.needs_initialization
    flag = next(v for v in repeat.variables if v.shape == [2] and v.dtype == tf.bool)
    flag.assign([True, False])
    for variable in repeat.trainable_variables:  # a layer that was trained has left its start
        variable.assign(tf.zeros_like(variable))
    assert repeat.needs_initialization


@pytest.mark.parametrize("wrap", ["chain", "repeat"])
def test_a_trained_variable_that_a_network_writes_is_refused_by_name(wrap):
    if not hasattr(keras.layers, "SpectralNormalization"):
        pytest.skip("this Keras has no such layer")
    dense = keras.layers.Dense(4, name="normalised")
    net = keras.Sequential([keras.layers.Input((2,)), keras.layers.SpectralNormalization(dense)])
    layer = fb.AffineCoupling(net)
    bijector = fb.Repeat(layer, 2) if wrap == "repeat" else fb.Chain([layer], reversible=True)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 4)
    model = flows.FlowModel(flows.distributions.Flow(base, bijector))
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"updates .*kernel"):
        model.fit(np.ones([8, 4], "float32"), verbose=0)
