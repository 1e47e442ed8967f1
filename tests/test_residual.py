"""Residual layers: contractions that remain contractions, their log-dets, and their inverse."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import SpectralDense, lipschitz_mlp
from tfp_flows.conditioners.lipschitz import spectral_norm_bound
from tfp_flows.keras_engine import keras
from tfp_flows.solvers.log_det import log_abs_det

tfd = tfp.distributions


def normal(*shape, seed=0, scale=1.0, dtype=tf.float64):
    return tf.constant(scale * np.random.RandomState(seed).normal(size=shape), dtype)


def jacobians(net, points, *context):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(points)
        out = net([points, *context] if context else points)
    return tape.batch_jacobian(out, points, experimental_use_pfor=False).numpy()


def steepest(net, points, *context) -> float:
    return np.linalg.norm(jacobians(net, points, *context), ord=2, axis=(1, 2)).max()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 64), (64, 3), (40, 40)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_spectral_norm_is_bounded_from_above(shape, scale):
    kernel = normal(*shape, scale=scale)
    exact = np.linalg.norm(kernel, ord=2)
    assert exact * (1 - 1e-12) <= spectral_norm_bound(kernel) <= 1.04 * exact
    rotation = tf.linalg.qr(kernel)[0]  # all singular values equal: the worst case
    assert 1 - 1e-12 <= spectral_norm_bound(rotation) <= 1.04
    assert spectral_norm_bound(tf.cast(kernel, tf.float32)) >= exact * (1 - 1e-5)


def test_gradient_of_the_spectral_norm():
    kernel = tf.linalg.diag(tf.constant([3.0, 1.0, 0.1], tf.float64))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        bound = spectral_norm_bound(kernel)
    expected = np.diag([1.0, 0.0, 0.0])
    np.testing.assert_allclose(tape.gradient(bound, kernel), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1e-25, 1e25])
def test_kernels_of_any_size_have_gradients(value):
    layer = SpectralDense(3, bound=0.7)
    layer.build((None, 2))
    layer.kernel.assign(tf.fill([2, 3], value))
    with tf.GradientTape() as tape:
        out = layer(tf.ones([1, 2]))
        loss = tf.reduce_sum(out)
    gradient = tape.gradient(loss, tf.nest.flatten(layer.trainable_variables[0])[0])
    assert np.isfinite(out).all() and np.isfinite(gradient).all()
    assert np.linalg.norm(out) <= 0.7 * np.sqrt(2) * (1 + 1e-5)


@pytest.mark.parametrize("activation", ["lipswish", "elu", "tanh"])
def test_lipschitz_constant_also_holds_after_training(activation):
    net = lipschitz_mlp(3, (16, 16), 0.95, activation, context=2, dtype="float64")
    points, context = normal(200, 3, scale=2.0), normal(200, 2, seed=1, scale=5.0)
    assert 0.1 < steepest(net, points, context) <= 0.95
    optimizer = keras.optimizers.SGD(50.0)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.square(net([points, context])))
        gradients = tape.gradient(loss, net.trainable_variables)
        optimizer.apply_gradients(zip(gradients, net.trainable_variables, strict=True))
        assert steepest(net, points, context) <= 0.95


def test_a_call_changes_no_variable():
    net = lipschitz_mlp(3, (8,))
    before = [np.array(v) for v in net.variables]
    net(tf.ones([4, 3]), training=True)
    for old, new in zip(before, net.variables, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_log_det_by_elimination(size):
    jacobian = normal(20, size, size)
    jacobian *= 0.97 / tf.norm(jacobian, ord=2, axis=[-2, -1], keepdims=True)
    matrix = tf.eye(size, dtype=tf.float64) + jacobian
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        log_det = log_abs_det(matrix)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(matrix)[1], atol=1e-12)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(tape.gradient(log_det, matrix), inverse.swapaxes(1, 2), atol=1e-9)


@pytest.mark.parametrize("traced", [False, True])
def test_second_derivatives(traced):
    """As for a Hessian of the log-density."""
    residual, y = fb.Residual(lambda y: 0.8 * tf.sin(tf.reverse(y, [-1]))), normal(1, 2)

    def slope(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            log_det = residual.inverse_and_log_det(y)[1]
        return tape.gradient(log_det, y)

    def curvature(y):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(y)
            out = slope(y)
        return tape.batch_jacobian(out, y, experimental_use_pfor=False)[0]

    found = (tf.function(curvature) if traced else curvature)(y)
    h = 1e-5 * np.eye(2)
    expected = [(slope(y + e) - slope(y - e))[0] / 2e-5 for e in h]
    np.testing.assert_allclose(found, np.stack(expected, 1), atol=1e-7)


def test_kernels_are_shared_within_a_search_only():
    net = lipschitz_mlp(2, (4,), dtype="float64")
    residual, x = fb.Residual(net), normal(3, 2)
    for forward in (residual.forward, tf.function(residual.forward)):
        for variable in residual.trainable_variables:
            variable.assign_add(tf.ones_like(variable))
        y = forward(tf.identity(x))
        np.testing.assert_allclose(y + net(y), x, atol=1e-12)


def test_exact_log_det_and_its_gradient():
    net = lipschitz_mlp(5, (16, 16), dtype="float64")
    residual, y = fb.Residual(net), normal(20, 5)

    def reference(y):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(y)
            out = y + net(y)
        return tf.linalg.slogdet(tape.batch_jacobian(out, y, experimental_use_pfor=False))[1]

    results = []
    for function in (reference, lambda y: residual.inverse_and_log_det(y)[1]):
        with tf.GradientTape() as tape:
            tape.watch(y)
            log_det = function(y)
        results.append([log_det, *tape.gradient(log_det, [y, *residual.trainable_variables])])
    for expected, found in zip(*results, strict=True):
        if expected is not None:  # the last bias
            np.testing.assert_allclose(found, expected, atol=1e-10)


def test_unbiased_log_det_and_its_gradient():
    net = lipschitz_mlp(4, (16,), 0.8, dtype="float64")
    y = tf.repeat(normal(1, 4), 200, axis=0)  # a noise of its own for each copy
    weight = fb.Residual(net).trainable_variables[0]

    def results(residual, y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            log_det = tf.reduce_mean(residual.inverse_and_log_det(y)[1])
        d_y, d_weight = tape.gradient(log_det, [y, weight])
        d_y = tf.reduce_sum(d_y, axis=0)
        return tf.concat([log_det[tf.newaxis], d_y, tf.reshape(d_weight, [-1])], 0)

    estimate = fb.Residual(net, "unbiased", n_exact_terms=1, geom_p=0.3)  # new draws each time
    draw = tf.function(lambda: results(estimate, y))
    draws = np.stack([draw() for _ in range(150)])
    expected = results(fb.Residual(net), y[:1])
    error = (draws.mean(0) - expected) / (draws.std(0) / np.sqrt(len(draws)) + 1e-12)
    assert draws.std(0)[0] > 0
    assert np.abs(error).max() < 4.5  # in standard errors, of some 70 numbers
    # And one seed is one estimate, in both directions.
    fixed = fb.Residual(net, "unbiased", seed=3)
    x, log_det = fixed.inverse_and_log_det(y)
    np.testing.assert_array_equal(log_det, fixed.inverse_and_log_det(tf.identity(y))[1])
    np.testing.assert_allclose(fixed.forward_and_log_det(x)[1], -log_det, atol=1e-10)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("log_det", ["exact", "unbiased"])
def test_round_trip_at_extreme_values(dtype, log_det):
    residual = fb.Residual(lipschitz_mlp(2, (32, 32), 0.95, dtype=dtype.name), log_det)
    y = tf.constant([[0.0, 0.0], [1e6, -1e6], [-3e4, 1e-6], [1e-12, 1e12]], dtype)
    x, log_dets = residual.inverse_and_log_det(y)
    assert np.isfinite(log_dets).all()
    back = residual.forward(tf.identity(x))
    close = 2e3 * np.finfo(dtype.as_numpy_dtype).eps
    scale = 1 + np.abs(y).max(axis=1, keepdims=True)
    np.testing.assert_allclose(back / scale, y / scale, atol=close)


@pytest.mark.parametrize("jit", [False, True])
def test_gradient_of_a_sample(jit):
    """Against the definition: `dy = (I + J)^-1 (dx - dg)`."""
    net = lipschitz_mlp(3, (8,), context=2, dtype="float64")
    residual = fb.Residual(net)
    x, context = normal(4, 3), normal(4, 2, seed=1)
    bias = residual.trainable_variables[-1]

    @tf.function(jit_compile=jit)
    def gradients(x, context):
        with tf.GradientTape() as tape:
            tape.watch([x, context])
            y = residual.forward(x, context=context)
        return y, tape.gradient(y, [x, context, bias], output_gradients=1e-9 * tf.ones_like(y))

    y, (d_x, d_context, d_bias) = gradients(x, context)
    solution = np.linalg.inv(np.eye(3) + jacobians(net, y, context)).sum(axis=1)
    np.testing.assert_allclose(1e9 * d_x, solution, rtol=1e-9)
    np.testing.assert_allclose(1e9 * d_bias, -solution.sum(axis=0), rtol=1e-9)
    with tf.GradientTape() as tape:
        tape.watch(context)
        out = net([y, context])
    expected = tape.gradient(out, context, output_gradients=-tf.constant(solution))
    np.testing.assert_allclose(1e9 * d_context, expected, rtol=1e-8)


def test_sampling_gradient_in_repeat():
    """The gradient uses each step's own parameters, whenever it is computed."""
    step = lambda: fb.Residual(lipschitz_mlp(2, (4,), dtype="float64"))  # noqa: E731
    bijector = fb.Repeat(step, 2, unroll=True)
    x, direction = normal(3, 2), normal(3, 2, seed=1)
    kernel = bijector.trainable_variables[0]
    change = normal(*kernel.shape, seed=2, scale=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(direction * bijector.forward(x))
    found = tf.reduce_sum(tape.gradient(loss, kernel) * change)
    losses = []
    for sign in (1, -2):
        kernel.assign_add(sign * change)
        losses.append(tf.reduce_sum(direction * bijector.forward(tf.identity(x))))
    np.testing.assert_allclose(found, (losses[0] - losses[1]) / 2, rtol=1e-5)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("net", [lambda y: 3.0 * tf.sin(y), lambda y: -2.0 * y - 1.0])
def test_a_map_that_is_not_a_contraction_does_not_converge(traced, net):
    residual = fb.Residual(net, tolerance=1e-5, max_steps=70)
    forward = tf.function(residual.forward) if traced else residual.forward
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        forward(tf.constant([[0.1, 2.0]]))
    for said in ("residual: the fixed-point iteration does not converge", "70", "1e-05"):
        assert said in str(error.value)


@pytest.mark.parametrize("bound", [1.0, 1.5, 0.0, -0.1, float("nan")])
def test_invalid_bounds(bound):
    with pytest.raises(ValueError, match="bound must lie between 0 and 1, got"):
        lipschitz_mlp(2, bound=bound)
    with pytest.raises(ValueError, match="bound must lie between 0 and 1"):
        flows.residual((2,), bound=bound)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(log_det="trace"), "log_det must be one of .* got 'trace'"),
        (dict(n_exact_terms=0), "n_exact_terms must be 1 or more, got 0"),
        (dict(max_steps=0), "max_steps must be 1 or more, got 0"),
        (dict(geom_p=1.0), "geom_p must be between 0 and 1, got 1.0"),
        (dict(tolerance=0.0), "tolerance must be above 0, got 0.0"),
    ],
)
def test_invalid_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        fb.Residual(tf.sin, **arguments)
    with pytest.raises(ValueError, match="activation must be"):
        lipschitz_mlp(2, activation="relu")


@pytest.mark.parametrize("log_det, context", [("exact", 2), ("unbiased", None)])
def test_trains_and_saves(log_det, context, tmp_path):
    flow = flows.residual((2,), 1, 8, log_det=log_det, context_shape=context, seed=0)
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.Adam(0.01))
    random = np.random.RandomState(0)
    x = np.tanh(random.normal(size=(64, 2))).astype("float32")
    data, given = x, {}
    if context:
        data = given = {"x": x, "context": random.normal(size=(64, 2)).astype("float32")}
        given = {"context": given["context"]}
    history = model.fit(data, batch_size=32, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    expected = flow.log_prob(x, **given)
    np.testing.assert_allclose(loaded.log_prob(x, **given), expected, atol=1e-6)
    assert np.isfinite(flow.sample(64, seed=1, **given)).all()
