"""Continuous flows against matrix exponentials, exact gradients, and solvers that fail."""

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.core.evaluation import collecting_penalties
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions

MATRIX = np.array([[0.3, -1.0], [0.7, -0.5]])
X = tf.constant(np.random.RandomState(0).normal(size=(4, 2)))
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
SOLVERS = pytest.mark.parametrize(
    "solver",
    [{"solver": "adaptive", **TIGHT}, {"solver": "fixed", "num_steps": 60}],
    ids=lambda s: s["solver"],
)


class Linear(tf.Module):
    """`t * A x`, whose flow from `s` to `e` is `expm((e^2 - s^2) / 2 * A)`."""

    def __init__(self):
        super().__init__()
        self.matrix = tf.Variable(MATRIX)

    def __call__(self, x, time):
        return time * tf.linalg.matvec(self.matrix, x)


def random_field(context=0):
    net = mlp(2, 2, (3,), "tanh", context=1 + context, dtype="float64")
    for v in net.trainable_variables:
        v.assign_add(0.5 * np.random.RandomState(len(v.shape)).normal(size=v.shape))
    return net


@SOLVERS
@pytest.mark.parametrize("times", [(0.0, 1.0), (0.5, 1.5), (1.0, -0.5)])
def test_equals_the_matrix_exponential(solver, times):
    start, end = times
    flow = fb.ContinuousFlow(Linear(), initial_time=start, final_time=end, **solver)
    power = (end**2 - start**2) / 2 * MATRIX
    y, log_det = flow.forward_and_log_det(X)
    np.testing.assert_allclose(y, X @ scipy.linalg.expm(power).T, atol=1e-8)
    np.testing.assert_allclose(log_det, np.full(4, np.trace(power)), atol=1e-8)
    back, log_det_back = flow.inverse_and_log_det(tf.identity(y))
    np.testing.assert_allclose(back, X, atol=1e-8)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-8)


@SOLVERS
@pytest.mark.parametrize(
    "jit",
    [pytest.param(False, id="graph"), pytest.param(True, id="xla", marks=pytest.mark.slow)],
)
def test_gradients_against_differences(solver, jit):
    """For the input, the context and every variable, of the value, log-det and penalty."""
    flow = fb.ContinuousFlow(
        random_field(context=1), kinetic_penalty=0.3, jacobian_penalty=0.2, **solver
    )
    context = tf.constant([[0.3], [-0.2], [0.1], [0.5]], tf.float64)

    def loss(x, context):
        with collecting_penalties() as found:
            z, log_det = flow.inverse_and_log_det(x, context=context)
        return tf.reduce_mean(tf.reduce_sum(tf.sin(z), -1) + log_det**2 + found[0])

    @tf.function(jit_compile=jit)
    def gradients(x, context):
        with tf.GradientTape() as tape:
            tape.watch([x, context])
            value = loss(x, context)
        return tape.gradient(value, [x, context, *flow.trainable_variables])

    compiled_loss = tf.function(loss)
    found = gradients(X, context)
    sources = [X, context, *flow.trainable_variables]
    assert len(found) == len(flow.trainable_variables) + 2 > 5
    random = np.random.RandomState(1)
    for index, (source, gradient) in enumerate(zip(sources, found, strict=True)):
        direction, before = random.normal(size=source.shape), source.numpy()
        values = []
        for sign in (1.0, -1.0):
            moved = before + sign * 1e-5 * direction
            if index < 2:
                values.append(
                    compiled_loss(*(moved if i == index else t for i, t in enumerate((X, context))))
                )
            else:
                source.assign(moved)
                values.append(compiled_loss(X, context))
        if index >= 2:
            source.assign(before)
        slope = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(np.sum(direction * gradient), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_reproducible_and_replaceable(noise):
    flow = fb.ContinuousFlow(
        random_field(), noise=noise, trace="hutchinson", seed=3, rtol=1e-6, atol=1e-6
    )
    copies = tf.repeat(X[:1], 1000, axis=0)
    y, estimates = flow.forward_and_log_det(copies)
    np.testing.assert_allclose(flow.inverse_log_det_jacobian(tf.identity(y)), -estimates, atol=1e-4)
    again = flow.forward_log_det_jacobian(copies)
    np.testing.assert_array_equal(again, estimates)
    under_xla = tf.function(lambda x: flow.forward_and_log_det(x)[1], jit_compile=True)
    np.testing.assert_allclose(under_xla(copies), estimates, atol=1e-6)
    other = fb.ContinuousFlow(flow.vector_field, noise=noise, trace="hutchinson", seed=4)
    assert np.abs(other.forward_log_det_jacobian(copies) - estimates).max() > 0.01

    flow.trace = "exact"
    exact = flow.forward_log_det_jacobian(copies)  # of the same tensor: no stale answer
    assert np.ptp(exact) < 1e-9
    spread = np.std(estimates)
    assert spread > 0.01
    assert abs(np.mean(estimates) - exact[0]) < 4 * spread / np.sqrt(1000)
    assert flow.copy().trace == "exact"


def test_training_draws_new_noise():
    flow = fb.ContinuousFlow(random_field(), trace="hutchinson")

    class Model(keras.Model):
        def call(self, x, training=None):
            return flow.forward_and_log_det(x)[1]

    model = Model(dtype="float64")
    first, second = model(X, training=True), model(X, training=True)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(model(X, training=False), flow.forward_log_det_jacobian(X))


def test_dropout_raises():
    flow = fb.ContinuousFlow(mlp(2, 2, (3,), "tanh", dropout=0.5, context=1, dtype="float64"))

    class Model(keras.Model):
        def call(self, x, training=None):
            return flow.forward(x)

    with pytest.raises(ValueError, match="same vector field at every call"):
        Model(dtype="float64")(X, training=True)


def test_penalties_are_integrals_of_the_vector_field():
    """For a constant Jacobian and an exponential trajectory the integrals are known."""
    rate = 0.5

    def norms(**weights):
        flow = fb.ContinuousFlow(lambda x, time: rate * x, **weights, **TIGHT)
        with collecting_penalties() as found:
            flow.inverse_and_log_det(X)
        return found

    start = X * np.exp(-rate)  # |f|^2 = rate^2 |start|^2 exp(2 rate t)
    kinetic = rate**2 * np.sum(start**2, -1) * np.expm1(2 * rate) / (2 * rate)
    np.testing.assert_allclose(norms(kinetic_penalty=2.0)[0], 2.0 * kinetic, rtol=1e-8)
    np.testing.assert_allclose(
        norms(jacobian_penalty=3.0)[0], np.full(4, 3.0 * 2 * rate**2), rtol=1e-8
    )
    assert norms() == []


def test_penalties_of_repeated_steps_and_their_gradients():
    """Loop or not, trained by inversion or not: the same as for separate steps."""
    step = fb.ContinuousFlow(random_field(), solver="fixed", num_steps=2, kinetic_penalty=0.1)
    loop = fb.Repeat(step, 2)
    stacked = loop.parameters["stacked"]
    unrolled = fb.Repeat(step, 2, unroll=True, stacked=stacked)
    rebuilt = fb.Repeat(step, 2, reversible=True, stacked=stacked)

    @tf.function
    def found(bijector):
        with tf.GradientTape() as tape, collecting_penalties() as penalties:
            bijector.inverse_and_log_det(X)
        loss = tf.add_n(penalties)
        return loss, tape.gradient(loss, loop.trainable_variables)

    expected, gradients = found(unrolled)
    assert np.all(expected > 0.0)
    for bijector in (loop, rebuilt):
        penalty, others = found(bijector)
        np.testing.assert_allclose(penalty, expected, rtol=1e-10)
        for a, b in zip(gradients, others, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-9)


def test_number_of_evaluations():
    fixed = fb.ContinuousFlow(random_field(), solver="fixed", num_steps=7)
    assert int(fixed.evaluations(X)) == 28
    loose, tight = (fb.ContinuousFlow(fixed.vector_field, rtol=r, atol=r) for r in (1e-3, 1e-9))
    for direction in ("forward", "inverse"):
        assert (
            7
            <= int(loose.evaluations(X, direction=direction))
            < int(tight.evaluations(X, direction=direction))
        )
    with pytest.raises(ValueError, match="sideways"):
        fixed.evaluations(X, direction="sideways")


@pytest.mark.parametrize(
    "flow",
    [
        fb.ContinuousFlow(lambda x, time: 1.0 + x**2, final_time=4.0),  # infinite before that
        fb.ContinuousFlow(lambda x, time: x * float("nan")),
        fb.ContinuousFlow(lambda x, time: tf.sin(200.0 * x + 50.0 * time), max_steps=5),
    ],
    ids=["blows up", "nan", "too few steps"],
)
def test_a_solver_that_does_not_reach_the_end(flow):
    message = r"(?s)rtol=1e-05 and atol=1e-05, within max_steps=\d+.*Steps taken:.*\d"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        flow.forward(X)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(flow.forward)(X)
    under_xla = tf.function(lambda x: flow.forward(x), jit_compile=True)(X)
    assert np.isnan(under_xla).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "euler"}, "solver must be 'adaptive' or 'fixed', got 'euler'"),
        ({"trace": "none"}, "trace must be"),
        ({"noise": "cauchy"}, "noise must be"),
        ({"num_steps": 0}, "num_steps must be an integer, 1 or more; got 0"),
        ({"rtol": 0.0}, "rtol must be above 0"),
        ({"kinetic_penalty": -1.0}, "kinetic_penalty must be"),
        ({"final_time": 0.0}, "must be finite and differ"),
        ({"seed": 0.5}, "seed must be an integer"),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        fb.ContinuousFlow(Linear(), **settings)


def test_invalid_vector_fields():
    with pytest.raises(ValueError, match="must map"):
        fb.ContinuousFlow(mlp(2, 3, (4,), context=1)).forward(tf.zeros([1, 2]))
    with pytest.raises(ValueError, match="float32 can resolve"):
        fb.ContinuousFlow(lambda x, time: x, rtol=1e-9).forward(tf.zeros([1, 2]))
    flow = fb.ContinuousFlow(lambda x, time: x)
    with pytest.raises(ValueError, match="trace must be"):
        flow.trace = "approximate"


@pytest.mark.slow
def test_second_derivatives():
    """Exact on a fixed grid; an error, not a wrong number, where an adjoint is solved."""

    def second(flow):
        with tf.GradientTape() as outer:
            outer.watch(X)
            with tf.GradientTape() as inner:
                inner.watch(X)
                log_det = flow.inverse_log_det_jacobian(X)
            slope = inner.gradient(log_det, X)
        return outer.gradient(slope, X)

    def swirl(x, time):
        return tf.tanh(x[:, ::-1] + x**2 + time)

    fixed = fb.ContinuousFlow(swirl, solver="fixed", num_steps=3)

    @tf.function
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_det = fixed.inverse_log_det_jacobian(x)
        return tape.gradient(log_det, x)

    direction = np.array([1e-5, -2e-5])
    difference = slope(X + direction) - slope(X - direction)
    expected = np.sum(difference / 2, axis=-1)  # the sum of its entries
    np.testing.assert_allclose(
        tf.function(second)(fixed) @ direction[:, None], expected[:, None], atol=1e-9
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="no second derivatives"):
        tf.function(second)(fb.ContinuousFlow(swirl))


@pytest.mark.slow
def test_repeated():
    """Steps with parameters of their own, in one loop, and their gradients."""
    net = random_field()
    repeat = fb.Repeat(fb.ContinuousFlow(net, **TIGHT), 2)
    for v in repeat.trainable_variables:
        v.assign_add(0.3 * np.random.RandomState(v.shape[-1]).normal(size=v.shape))
    steps = []
    for i in range(2):
        own = keras.models.clone_model(net)
        for v, stacked in zip(own.trainable_variables, repeat.trainable_variables, strict=True):
            v.assign(stacked[i])
        steps.append(fb.ContinuousFlow(own, **TIGHT))

    @tf.function
    def both(flow):
        with tf.GradientTape() as tape:
            y, log_det = flow.inverse_and_log_det(X)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(log_det)
        return loss, tape.gradient(loss, flow.trainable_variables)

    loss, gradients = both(repeat)
    expected, separate = both(fb.Chain(steps))
    np.testing.assert_allclose(loss, expected, atol=1e-8)
    half = len(separate) // 2
    for i, gradient in enumerate(gradients):
        np.testing.assert_allclose(gradient, tf.stack(separate[i::half]), atol=1e-7)


@pytest.mark.slow
def test_trains_saves_and_switches_after_loading(tmp_path):
    """A Gaussian with mean 2 and scale 1/2, in few steps, from Hutchinson's estimate."""
    data = 2.0 + 0.5 * np.random.RandomState(0).normal(size=(512, 2)).astype(np.float32)
    flow = flows.ffjord(
        (2,), (8,), solver="fixed", num_steps=4, trace="hutchinson", kinetic_penalty=0.01
    )
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(data, epochs=3, batch_size=64, verbose=0)
    entropy = 2 * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.5))
    assert abs(model.evaluate(data, verbose=0, return_dict=True)["loss"] - entropy) < 0.2
    expected = model.log_prob(data[:5])
    model.save(tmp_path / "flow.keras")
    loaded_model = keras.saving.load_model(tmp_path / "flow.keras")
    loaded = loaded_model.flow
    calls = (loaded_model.log_prob, lambda x: loaded_model.predict(x, verbose=0))
    np.testing.assert_allclose(loaded.log_prob(data[:5]), expected, atol=1e-5)
    (part,) = [b for b in loaded.bijector.bijectors if isinstance(b, fb.ContinuousFlow)]
    assert part.trace == "hutchinson"
    estimated = loaded.log_prob(data[:5])
    for call in calls:
        np.testing.assert_allclose(call(data[:5]), estimated, atol=1e-5)
    part.trace = "exact"
    exact = loaded.log_prob(data[:5])
    for call in calls:  # though they were traced before
        np.testing.assert_allclose(call(data[:5]), exact, atol=1e-5)
    assert 1e-4 < np.abs(exact - estimated).max() < 1.0
    log_det = part.inverse_log_det_jacobian(data[:1])
    with tf.GradientTape(persistent=True) as tape:
        x = tf.constant(data[:1])
        tape.watch(x)
        latents = part.inverse(x)
    jacobian = tape.jacobian(latents, x, experimental_use_pfor=False)[0, :, 0]
    np.testing.assert_allclose(log_det[0], np.linalg.slogdet(jacobian)[1], atol=1e-2)
