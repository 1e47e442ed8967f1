"""Planar, radial and Sylvester flows against the papers' formulas, and where roots are hard."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.bijectors.linear import orthogonal
from tfp_flows.conditioners import mlp
from tfp_flows.keras_engine import keras
from tfp_flows.solvers.root import above_minus_one, tanh_root

tfb, tfd = tfp.bijectors, tfp.distributions

DTYPES = pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
MAKERS = {
    "planar": lambda t=tf.float64: fb.Planar(3, seed=0, dtype=t),
    "radial": lambda t=tf.float64: fb.Radial(3, seed=0, dtype=t),
    "sylvester": lambda t=tf.float64: fb.Sylvester(3, 2, seed=0, dtype=t),
}
EACH = pytest.mark.parametrize("name", MAKERS)
READY = pytest.mark.parametrize("make", [flows.planar, flows.radial, flows.sylvester])


def random(*shape, dtype=tf.float64, scale=1.0):
    return tf.constant(scale * np.random.RandomState(3).normal(size=shape), dtype)


def softplus(a):
    return np.log1p(np.exp(-abs(a))) + max(a, 0.0)


def test_planar_formula():
    w, u, b = np.array([0.3, -1.0, 2.0]), np.array([1.0, 2.0, -3.0]), 0.7
    x = random(5, 3).numpy()
    allowed = 0.999 * (softplus(w @ u + np.log(np.e - 1)) - 1)
    u_hat = u + (allowed - w @ u) * w / (w @ w)
    planar = fb.Planar(3, params=tf.Variable(np.concatenate([w, u, [b]])))
    y, log_det = planar.forward_and_log_det(x)
    np.testing.assert_allclose(y, x + np.outer(np.tanh(x @ w + b), u_hat), atol=1e-12)
    slope = 1 - np.tanh(x @ w + b) ** 2
    np.testing.assert_allclose(log_det, np.log(np.abs(1 + slope * (w @ u_hat))), atol=1e-12)


def test_radial_formula():
    centre, params = np.array([0.5, -0.5]), np.array([0.3, 2.0])
    x = random(5, 2).numpy()
    alpha = softplus(params[0])
    beta = alpha * 0.999 * (softplus(params[1] + np.log(np.e - 1)) - 1)
    distance = np.linalg.norm(x - centre, axis=1)
    h, slope = 1 / (alpha + distance), -1 / (alpha + distance) ** 2
    y, log_det = fb.Radial(
        2, params=tf.Variable([*centre, *params], dtype=tf.float64)
    ).forward_and_log_det(x)
    np.testing.assert_allclose(y, x + beta * h[:, None] * (x - centre), atol=1e-12)
    expected = np.log(1 + beta * h) + np.log(1 + beta * h + beta * slope * distance)
    np.testing.assert_allclose(log_det, expected, atol=1e-12)


def test_sylvester_of_rank_one_is_planar():
    sylvester = fb.Sylvester(3, 1, seed=0, dtype=tf.float64)
    sylvester.params.assign(random(*sylvester.params.shape))
    vector, product, log_inner, b = np.split(sylvester.params.numpy(), [3, 4, 5])
    q = orthogonal(tf.constant(vector[None]), 1)[:, 0].numpy()
    params = np.concatenate([q * np.exp(log_inner), q * product * np.exp(-log_inner), b])
    planar, x = fb.Planar(3, params=tf.Variable(params)), random(5, 3)
    for found, expected in zip(
        sylvester.forward_and_log_det(x), planar.forward_and_log_det(x), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_orthogonal_is_the_product_of_reflections():
    vectors = random(4, 5).numpy()
    expected = np.eye(5)
    for v in vectors:
        expected = expected @ (np.eye(5) - 2 * np.outer(v, v) / (v @ v))
    np.testing.assert_allclose(orthogonal(tf.constant(vectors)), expected, atol=1e-12)
    np.testing.assert_allclose(orthogonal(tf.constant(vectors), 2), expected[:, :2], atol=1e-12)
    vectors[1:] = 0.0
    np.testing.assert_allclose(
        orthogonal(tf.constant(vectors)), orthogonal(tf.constant(vectors[:1])), atol=1e-12
    )


@DTYPES
@pytest.mark.parametrize("compiled", [False, True])
def test_roots_at_every_slope(dtype, compiled):
    eps = np.finfo(dtype.as_numpy_dtype).eps
    weight, root = np.meshgrid(
        [-0.999, -0.9, -1e-3, 0.0, 1.0, 1e3, 1e6], [-1e6, -8.0, -0.1, -1e-4, 0.0, 1e-3, 2.0, 20.0]
    )
    value = tf.constant(root + weight * np.tanh(root), dtype)
    weight = tf.constant(weight, dtype)
    found = tf.function(tanh_root, jit_compile=compiled)(value, weight)
    again = found + weight * tf.tanh(found)
    np.testing.assert_array_less(
        np.abs(again - value), 16 * eps * (1 + np.abs(found) + np.abs(weight))
    )


def test_root_of_what_is_not_finite():
    found = tanh_root(tf.constant([np.nan, 1.0, np.inf]), tf.constant(0.5))
    np.testing.assert_array_equal(np.isfinite(found), [False, True, False])


def test_gradients_of_a_root():
    value, weight = random(20), above_minus_one(random(20, scale=3.0))
    numeric = tfp.math.value_and_gradient(
        lambda value, weight: tanh_root(value, weight), [value, weight]
    )[1]
    step = 1e-6
    np.testing.assert_allclose(
        numeric[0],
        (tanh_root(value + step, weight) - tanh_root(value - step, weight)) / (2 * step),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        numeric[1],
        (tanh_root(value, weight + step) - tanh_root(value, weight - step)) / (2 * step),
        rtol=1e-5,
        atol=1e-8,
    )


@EACH
def test_starts_as_the_identity(name):
    x = random(5, 3)
    y, log_det = MAKERS[name]().forward_and_log_det(x)
    np.testing.assert_allclose(y, x, atol=1e-12)
    np.testing.assert_allclose(log_det, 0, atol=1e-12)


@EACH
@DTYPES
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_invertible_for_any_params(name, dtype, scale):
    bijector = MAKERS[name](dtype)
    tolerance = 1e-9 if dtype == tf.float64 else 2e-2  # slopes go down to 1e-3
    for seed in range(5):
        numbers = np.random.RandomState(seed).normal(size=bijector.params.shape) * scale
        bijector.params.assign(tf.constant(np.clip(numbers, -10, 10), dtype))
        x = random(20, 3, dtype=dtype)
        with tf.GradientTape() as tape:
            y = bijector.forward(x)
            back, minus = bijector.inverse_and_log_det(y)
            total = tf.reduce_sum(back * back) + tf.reduce_sum(minus)
        assert np.isfinite(tape.gradient(total, bijector.params)).all()
        if name != "sylvester" or scale == 1.0:  # exp(10) is worse conditioned than float32
            np.testing.assert_allclose(back, x, atol=tolerance * max(1, np.abs(y).max()))


def test_radial_at_its_centre():
    radial = fb.Radial(2, params=tf.Variable([1.0, 2.0, 0.5, 3.0]))
    x = tf.constant([[1.0, 2.0]])
    for both in (radial.forward_and_log_det, radial.inverse_and_log_det):
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = both(x)
        np.testing.assert_array_equal(out[0], x)
        for gradient in tape.gradient(out, [x, radial.params]):
            assert np.isfinite(gradient).all()


@EACH
def test_far_away(name):
    bijector = MAKERS[name](tf.float32)
    bijector.params.assign_add(random(*bijector.params.shape, dtype=tf.float32))
    x = tf.constant([[1e6, -1e6, 1e6], [0.0, 1e6, 0.0]])
    back, log_det = bijector.inverse_and_log_det(bijector.forward(x))
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1.0)
    assert np.isfinite(log_det).all()


@EACH
def test_a_context_for_each_example(name):
    """Parameters plus what a network adds are the parameters of each example."""
    plain = MAKERS[name]()
    width = plain.params.shape[0]
    changes = random(2, width)
    contextual = type(plain)(
        **{k: v for k, v in plain.parameters.items() if k != "conditioner"},
        conditioner=lambda c: tf.gather(changes, tf.cast(c[:, 0], tf.int32)),
    )
    x = random(4, 2, 3)
    context = tf.constant([[0.0], [1.0]], tf.float64)
    for direction in ("forward_and_log_det", "inverse_and_log_det"):
        found = getattr(contextual, direction)(x, context=context)
        for i in range(2):
            alone = type(plain)(
                **{**plain.parameters, "params": tf.Variable(plain.params + changes[i])}
            )
            expected = getattr(alone, direction)(x[:, i])
            np.testing.assert_allclose(found[0][:, i], expected[0], atol=1e-10)
            np.testing.assert_allclose(found[1][:, i], expected[1], atol=1e-10)


@READY
def test_density_and_samples_agree(make):
    flow = make((3,), layers=2, seed=0, context_shape=2)
    for variable in flow.trainable_variables:
        variable.assign_add(random(*variable.shape, dtype=tf.float32, scale=0.3))
    context = tf.constant([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]])
    x, log_prob = flow.experimental_sample_and_log_prob(3, seed=1, context=context)
    np.testing.assert_allclose(flow.log_prob(x, context=context), log_prob, atol=1e-3)


@READY
def test_fits_data(make):
    flow = make((2,), layers=1, seed=0)
    x = np.random.RandomState(0).normal(size=(200, 2)).astype("float32")
    x[:, 1] += 2 * np.tanh(3 * x[:, 0])
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.Adam(0.02))
    losses = model.fit(x, epochs=10, batch_size=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.02


def test_saves_with_a_context(tmp_path):
    flow = flows.sylvester((2,), layers=1, rank=1, hidden=3, context_shape=1, seed=0)
    for variable in flow.trainable_variables:
        variable.assign_add(random(*variable.shape, dtype=tf.float32))
    model, x, context = (
        flows.FlowModel(flow),
        np.ones([5, 2], "float32"),
        np.ones([5, 1], "float32"),
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = flow.log_prob(x, context=context)
    np.testing.assert_allclose(loaded.flow.log_prob(x, context=context), expected, atol=1e-5)


def test_variational_inference():
    """A curved posterior, from its unnormalised density: the bound approaches the evidence."""
    flow = flows.sylvester((2,), layers=2, seed=0)
    curve = tfd.JointDistributionSequential(
        [tfd.Normal(0.0, 1.0), lambda a: tfd.Normal(2 * tf.tanh(2 * a), 0.4)]
    )
    variables = flow.trainable_variables
    adam = keras.optimizers.Adam(0.02)

    @tf.function
    def step(seed):
        with tf.GradientTape() as tape:
            z, log_q = flow.experimental_sample_and_log_prob(64, seed=seed)
            gap = tf.reduce_mean(log_q - curve.log_prob(z[:, 0], z[:, 1]))
        adam.apply_gradients(zip(tape.gradient(gap, variables), variables, strict=True))
        return gap

    gaps = [float(step(tf.constant([0, i]))) for i in range(400)]
    assert np.mean(gaps[-50:]) < 0.25 < gaps[0]  # the evidence is 1: the gap is the divergence


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: fb.Planar(0), "features must be 1 or more, got 0"),
        (lambda: fb.Sylvester(3, 4), "rank must be in 1 ... 3, the features, got 4"),
        (lambda: fb.Planar(2).forward(tf.zeros([1, 3])), "made for .2,. in the last dimension"),
        (
            lambda: fb.Planar(2, mlp(1, 5, (3,))).forward(tf.zeros([1, 2])),
            "needs a context, and got none",
        ),
        (
            lambda: fb.Planar(2, mlp(1, 4, (3,))).forward(
                tf.zeros([1, 2]), context=tf.ones([1, 1])
            ),
            "Give its last layer 5 units",
        ),
        (
            lambda: fb.Planar(2, mlp(1, 5, (3,))).forward(tf.zeros([2]), context=tf.ones([3, 1])),
            "batch dimensions that broadcast",
        ),
        (lambda: flows.planar((4, 4, 1)), "needs event_shape"),
        (lambda: flows.radial((2,), layers=0), "layers must be 1 or more"),
        (lambda: flows.sylvester((2,), rank=3), "rank must be in 1 ... 2"),
        (lambda: flows.sylvester((2,), context_shape=(2, 2)), "takes contexts of rank 1"),
    ],
)
def test_messages(make, said):
    with pytest.raises(ValueError, match=said):
        make()
