"""Autoregressive flows against a loop that fills in one entry after the other."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import made
from tfp_flows.core import Network, variable_paths
from tfp_flows.core.random_values import random_state
from tfp_flows.core.stack import networks
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras
from tfp_flows.transformers import Affine, RationalQuadraticSpline

tfd = tfp.distributions

SIZE = 4
ORDERS = {
    "sequential": [0, 1, 2, 3],
    "reverse": [3, 2, 1, 0],
    "random": random_state(0).permutation(SIZE).tolist(),
    "given": [2, 0, 3, 1],
}


def perturbed(net, scale: float = 0.5):
    """The network with all weights away from zero."""
    random = np.random.RandomState(0)
    for weight in net.trainable_weights:
        weight.assign(scale * random.normal(size=weight.shape))
    return net


def counted(monkeypatch) -> list:
    """A list that grows with every evaluation of a network."""
    calls: list = []
    original = Network.__call__
    monkeypatch.setattr(
        Network, "__call__", lambda self, *a, **k: (calls.append(1), original(self, *a, **k))[1]
    )
    return calls


def network(order: str, num_params: int, context: int | None = None):
    given = ORDERS["given"] if order == "given" else order
    return perturbed(
        made(SIZE, num_params, (9, 8), given, "tanh", context, seed=0, dtype="float64")
    )


def jacobian(net, x, *context) -> np.ndarray:
    """How entry i's parameters depend on entry j, `[batch, num_params, i, j]`."""
    arguments = [x, *context]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(arguments)
        out = net(arguments if context else x)
    return [
        tf.reshape(tape.batch_jacobian(out, a), [x.shape[0], -1, SIZE, a.shape[1]]).numpy()
        for a in arguments
    ]


@pytest.mark.parametrize("context", [None, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_entries_depend_on_all_earlier_ones_alone(order, context):
    net = network(order, 2, context)
    random = np.random.RandomState(1)
    x = tf.constant(random.normal(size=(5, SIZE)))
    given = [tf.constant(random.normal(size=(5, context)))] if context else []
    on_entries, *on_context = jacobian(net, x, *given)
    in_order = on_entries[:, :, ORDERS[order]][..., ORDERS[order]]
    for i in range(SIZE):
        for j in range(SIZE):
            assert np.all((in_order[:, :, i, j] != 0) == (j < i))
    for found in on_context:
        assert np.all(found != 0)  # the first entry's too


@pytest.mark.parametrize("hidden", [(1,), (2, 1), (3,)])
def test_narrow_layers_and_single_entries(hidden):
    for size in (1, 2, 7):
        net = perturbed(made(size, 1, hidden, dtype="float64"))
        x = tf.constant(np.random.RandomState(0).normal(size=(3, size)))
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = net(x)
        found = tape.batch_jacobian(out, x, unconnected_gradients="zero").numpy()
        assert np.all(np.triu(found) == 0)


def test_masks_survive_training_and_files(tmp_path):
    base = tfd.Sample(tfd.Normal(0.0, 1.0), SIZE)
    net = made(SIZE, 2, (8, 8), ORDERS["given"], "tanh", dtype="float32")
    model = flows.FlowModel(Flow(base, fb.MaskedAutoregressive(net)))
    model.compile(keras.optimizers.SGD(0.1))
    x = np.random.RandomState(0).normal(size=(64, SIZE)).astype("float32")
    x[:, 0] += 2 * x[:, 2]
    before = net.get_weights()
    history = model.fit(x, batch_size=16, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert any(np.any(a != b) for a, b in zip(before, net.get_weights(), strict=True))
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.log_prob(x), model.log_prob(x))
    for one in (net, loaded.flow.bijector.conditioner):
        (found,) = jacobian(one, tf.constant(x))
        in_order = found[:, :, ORDERS["given"]][..., ORDERS["given"]]
        assert np.all(np.triu(in_order) == 0)
        assert np.any(in_order != 0)


def affine(context=None):
    return fb.MaskedAutoregressive(network("given", 2, context), Affine("clamp"))


def spline(context=None):
    return fb.SplineAutoregressive(network("given", 8, context), bins=3)


def filled_in(bijector, x, context):
    """The forward direction, one entry after the other."""
    y, log_det = tf.zeros_like(x), 0.0
    for entry in ORDERS["given"]:
        params = bijector.conditioner(y if context is None else [y, context])
        params = tf.reshape(params, [-1, params.shape[-1] // SIZE, SIZE])
        if isinstance(bijector, fb.SplineAutoregressive):
            new, log_scale = RationalQuadraticSpline(3).forward(x, params)
        else:
            log_scale = params[:, 1] / (1 + tf.abs(params[:, 1]) / 5)
            new = x * tf.exp(log_scale) + params[:, 0]
        mask = tf.one_hot(entry, SIZE, dtype=x.dtype)
        y += mask * new
        log_det += tf.reduce_sum(mask * log_scale, axis=-1)
    return y, log_det


@pytest.mark.parametrize(
    "make, context, mode",
    [(affine, None, "eager"), (affine, 2, "graph"), (affine, 2, "xla"), (spline, None, "graph")],
)
def test_values_and_gradients_of_the_plain_loop(make, context, mode):
    bijector = make(context)
    random = np.random.RandomState(2)
    x = tf.constant(random.normal(size=(6, SIZE)))
    given = None if context is None else tf.constant(random.normal(size=(6, context)))
    sources = [x, *bijector.trainable_variables] + ([] if context is None else [given])

    def results(forward):
        with tf.GradientTape() as tape:
            tape.watch([s for s in sources if tf.is_tensor(s)])
            y, log_det = forward(tf.identity(x), given)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(tf.cos(log_det))
        return [y, log_det, *tape.gradient(loss, sources)]

    def ours():
        return results(lambda x, c: bijector.forward_and_log_det(x, context=c))

    run = ours if mode == "eager" else tf.function(ours, jit_compile=mode == "xla")
    expected = tf.function(lambda: results(lambda x, c: filled_in(bijector, x, c)))()
    for found, wanted in zip(run(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-10)


@pytest.mark.parametrize("unroll", [False, True])
def test_gradients_of_sampling_from_repeated_layers(unroll):
    """The search of each step has its own variables, and so has its gradient."""
    layers = [affine(), affine()]
    for variable in layers[1].trainable_variables:
        variable.assign(0.7 * variable)
    given = iter(layers)
    repeat = fb.Repeat(lambda: next(given), 2, unroll=unroll)
    paths = [p for p, v in variable_paths(layers[0]).items() if v.trainable]
    separate = [[variable_paths(layer)[p] for layer in layers] for p in paths]
    stacked = [repeat._stack.variables_by_path[p] for p in paths]
    x = tf.constant(np.random.RandomState(3).normal(size=(5, SIZE)))

    @tf.function
    def gradients(bijector, variables):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(bijector.forward(x)))
        return tape.gradient(loss, [x, variables])

    to_x, to_separate = gradients(fb.Chain(layers), separate)
    found_x, found = gradients(repeat, stacked)
    np.testing.assert_allclose(found_x, to_x, atol=1e-12)
    for a, b in zip(found, to_separate, strict=True):
        np.testing.assert_allclose(a, tf.stack(b), atol=1e-12)


def test_early_exit(monkeypatch):
    """Passes that change nothing are skipped, and those that change something are not."""
    size, x = 40, tf.constant(np.random.RandomState(0).normal(size=(10, 40)))
    net = perturbed(made(size, 2, (16,), "reverse", dtype="float64"), scale=0.1)
    y = x
    for _ in range(size):  # the plain loop
        shift, log_scale = tf.split(net(y), 2, axis=-1)
        y = x * tf.exp(2 * tf.tanh(log_scale / 2)) + shift
    passes = counted(monkeypatch)
    found = fb.MaskedAutoregressive(net).forward(x)
    np.testing.assert_allclose(found, y, rtol=1e-14)  # but for a few units in the last place
    assert len(passes) < size / 2


def test_worst_case_takes_every_pass():
    """Each entry is twice the one before it, so that every pass sets one entry right."""
    size = 20
    calls = []

    def net(y):
        calls.append(1)
        return tf.concat([tf.pad(2 * y[:, :-1], [[0, 0], [1, 0]]), 0 * y], -1)

    start = tf.one_hot([0], size, dtype=tf.float64)
    y = fb.MaskedAutoregressive(net).forward(start)
    np.testing.assert_array_equal(y, 2.0 ** np.arange(size)[None])
    assert size <= len(calls) <= size + 3


def test_entries_that_overflow_before_their_turn():
    """Infinity times a mask's zero would be NaN for all."""
    size, growth = 6, 2.0**60
    weight = growth * np.triu(np.ones([size, size], np.float32), 1)

    def net(y):
        return tf.concat([tf.matmul(y, tf.constant(weight)), 0.0 * y], -1)

    layer = fb.MaskedAutoregressive(net)
    expected = tf.one_hot([0], size)
    x = layer.inverse(expected)
    np.testing.assert_array_equal(layer.forward(tf.identity(x)), expected)


def running(params_of):
    """A conditioner with parameters that are a function of the sum of the entries before."""
    return lambda y: params_of(tf.cumsum(y, exclusive=True, axis=-1))


def shift(before):
    """Parameters of affine maps with a scale of 1."""
    return tf.concat([before, tf.zeros_like(before)], axis=-1)


def slopes(before):
    """Parameters of splines: NaN if the sum is not finite, else 0, for the identity."""
    return tf.concat([0.0 * before] * 8, axis=-1)


INF = np.inf
ROWS = {
    "float16": [[300, 0, 0], [300, 300, -600], [1, 2, 3], [3e4, 3e4, 3e4], [1, INF, 2]],
    "float32": [[1e20, 0, 0], [1e20, -1e20, 5], [1, 2, 3], [3e38, 3e38, 0], [-INF, 1, 2]],
    "float64": [[1e200, 0, 0], [1e200, 1, 1], [1, 2, 3], [1.7e308, 1.7e308, 1], [1, 2, INF]],
}


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ROWS)
def test_entries_of_any_size(dtype, jit):
    """Where the square of an entry overflows, and where the entry itself does."""
    x = np.array([*ROWS[dtype], [1, np.nan, 2], [np.nan, 1, 2]], dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.array([np.cumsum([0, *row], dtype=dtype)[:-1] for row in x])
        rows = []
        for row in x:  # each entry is its latent and the sum of the entries before
            y = []
            for entry in row:
                y.append(entry + np.sum(np.array(y, dtype), dtype=dtype))
            rows.append(y)
        expected = np.array(rows, dtype)
    layer = fb.MaskedAutoregressive(running(shift), Affine("clamp"))
    found = tf.function(layer.forward, jit_compile=jit)(tf.constant(x))
    np.testing.assert_array_equal(found, expected)


def test_not_a_number_spreads_to_later_entries_of_splines():
    layer = fb.SplineAutoregressive(running(slopes), bins=3)
    x = np.array([[0.5, np.nan, 1.0], [np.nan, 1.0, 0.5], [0.5, 1.0, -1.0]], "float32")
    found = layer.forward(tf.constant(x)).numpy()
    np.testing.assert_array_equal(np.isnan(found), [[0, 1, 1], [1, 1, 1], [0, 0, 0]])


@pytest.mark.parametrize("strength", [0.02, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weak_dependence_of_an_entry_on_itself_is_found(strength, dtype):
    """As a fixed point it is found in a few passes; its log-det would be wrong."""
    layer = fb.MaskedAutoregressive(lambda y: tf.repeat(strength * y, 2, axis=-1), Affine("clamp"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not autoregressive"):
        layer.forward(tf.ones([2, 2], dtype))


@pytest.mark.parametrize("size", [6, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [0.3, 0.6])
def test_rounding_that_differs_from_pass_to_pass(size, scale):
    """In `vectorized_map` examples that are done leave the batch, and sums are made otherwise."""
    for seed in range(4):
        net = made(size, 2, (32, 32), activation="tanh", dtype="float32")
        random = np.random.RandomState(seed)
        for weight in net.trainable_weights:
            weight.assign(scale * random.normal(size=weight.shape))
        layer = fb.MaskedAutoregressive(net)
        x = tf.constant(random.normal(size=(40, size)), tf.float32)
        found = tf.vectorized_map(layer.forward, x)
        expected = layer.forward(x)
        largest = tf.reduce_max(tf.abs(expected), axis=-1, keepdims=True)
        np.testing.assert_allclose(found / largest, expected / largest, atol=1e-3)
        back = layer.inverse(tf.identity(found))  # of the size of x where both are right
        np.testing.assert_allclose(back, x, atol=1e-3)


def test_a_conditioner_that_is_not_autoregressive():
    layer = fb.MaskedAutoregressive(lambda y: tf.repeat(1.0 + y, 2, axis=-1))
    for forward in (layer.forward, tf.function(lambda x: layer.forward(x))):
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not autoregressive"):
            forward(tf.ones([2, 3]))
    compiled = tf.function(lambda x: layer.forward(x), jit_compile=True)
    assert np.isnan(compiled(tf.ones([2, 3]))).all()


def test_iaf_samples_with_one_evaluation(monkeypatch):
    flow = flows.iaf((3,), 3, (8,), dtype=tf.float64)
    random = np.random.RandomState(0)
    for variable in flow.trainable_variables:
        variable.assign_add(0.3 * random.normal(size=variable.shape))
    calls = counted(monkeypatch)

    @tf.function
    def sample():
        return flow.experimental_sample_and_log_prob(50, seed=1)

    x, log_prob = sample()
    assert len(calls) == len(networks(flow)) == 3
    np.testing.assert_allclose(flow.log_prob(x), log_prob, atol=1e-10)


def test_random_orders_come_from_the_seed():
    def orders(seed):
        flow = flows.maf((9,), 3, (8,), order="random", seed=seed)
        return [net.net.layers[-1].output_degrees[:9] for net in networks(flow.bijector)]

    first = orders(0)
    assert first == orders(0)
    assert first != orders(1)
    assert first[0] != first[1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(order=[0, 1, 1]), r"permutation of 0 ... 2, .* got \[0, 1, 1\]"),
        (dict(order=[0, 1]), r"one index for each of the 3 entries, got \[0, 1\]"),
        (dict(order=[1, 2, 3]), "permutation"),
        (dict(order="backwards"), "order must be one of .* got 'backwards'"),
        (dict(hidden=()), "one hidden layer at least"),
        (dict(hidden=(4, 0)), "1 or more"),
    ],
)
def test_bad_networks(arguments, said):
    with pytest.raises(ValueError, match=said):
        made(3, 2, **arguments)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(event_shape=(2, 2, 1)), r"maf needs event_shape \(features,\)"),
        (dict(event_shape=3, transformer="cubic"), "'affine' or 'spline', got 'cubic'"),
        (dict(event_shape=3, order="sequential"), "'reverse' or 'random', got 'sequential'"),
        (dict(event_shape=3, layers=0), "layers must be 1 or more"),
        (dict(event_shape=3, context_shape=(2, 2)), "contexts of rank 1"),
    ],
)
def test_bad_flows(arguments, said):
    with pytest.raises(ValueError, match=said):
        flows.maf(**arguments)


def test_width_of_the_network():
    with pytest.raises(ValueError, match="Give its last layer 6 units"):
        fb.MaskedAutoregressive(made(3, 3, (4,))).inverse(tf.zeros([1, 3]))
