"""Orthogonal and triangular linear layers, and the logit, against matrices and formulas."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions


def random(*shape):
    return tf.constant(np.random.RandomState(5).normal(size=shape))


def matrix_of(bijector, size):
    return tf.transpose(bijector.forward(tf.eye(size, dtype=tf.float64))).numpy()


def test_householder_is_orthogonal():
    for count in (1, 2, 7):
        turn = fb.Householder(4, count, seed=0, dtype=tf.float64)
        matrix = matrix_of(turn, 4)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(matrix), (-1) ** count, atol=1e-12)
        if count < 4:  # what is orthogonal to all the vectors stays
            assert np.linalg.matrix_rank(matrix - np.eye(4)) == count


def test_householder_of_zeros():
    turn = fb.Householder(2, vectors=tf.Variable(tf.zeros([2, 2])))
    with tf.GradientTape() as tape:
        y = turn.forward([[3.0, 4.0]])
    np.testing.assert_array_equal(y, [[3.0, 4.0]])
    assert np.isfinite(tape.gradient(y, turn.vectors)).all()


def test_qr_is_its_factors():
    linear = fb.QRLinear(4, seed=0, dtype=tf.float64)
    linear.upper.assign(random(4, 4))
    linear.log_diagonal.assign(random(4))
    q = matrix_of(fb.Householder(4, vectors=linear.vectors), 4)
    r = np.triu(linear.upper, 1) + np.diag(np.exp(linear.log_diagonal))
    matrix = matrix_of(linear, 4)
    np.testing.assert_allclose(matrix, q @ np.linalg.inv(r), atol=1e-10)
    log_det = linear.forward_log_det_jacobian(random(2, 4), event_ndims=1)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(matrix)[1], atol=1e-10)


def test_neighbours_become_one_matrix():
    parts = [fb.ActNorm(4), fb.QRLinear(4), fb.Householder(4), fb.Invertible1x1Conv(4)]

    @tf.function
    def forward(x):
        return fb.Chain(parts).inverse_and_log_det(x)

    y = tf.ones([100, 4])
    graph = forward.get_concrete_function(y).graph
    products = [op for op in graph.get_operations() if op.type == "MatMul"]
    assert sum(op.outputs[0].shape[0] == 100 for op in products) == 1
    np.testing.assert_allclose(forward(y)[0], tfb.Chain(parts).inverse(y), atol=1e-5)


def test_steps_of_a_repeat_start_apart():
    for step in (fb.Householder(3, seed=0), fb.QRLinear(3, seed=0)):
        repeat = fb.Repeat(step, 2)
        vectors = next(v for v in repeat.trainable_variables if "vectors" in v.name)
        assert not np.allclose(vectors[0], vectors[1])


def test_trains_and_saves(tmp_path):
    bijector = fb.Chain([fb.QRLinear(2, seed=0), fb.Householder(2, 1, seed=0)])
    model = flows.FlowModel(Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), bijector))
    model.compile(keras.optimizers.Adam(0.05))
    x = (np.random.RandomState(0).normal(size=(500, 2)) @ [[2.0, 1.0], [0.0, 0.5]]).astype(
        "float32"
    )
    loss = model.fit(x, epochs=8, batch_size=50, verbose=0).history["loss"][-1]
    truth = np.log(2 * np.pi * np.e) + 0.5 * np.log(np.linalg.det(np.cov(x.T)))
    assert loss < truth + 0.05
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(x[:5]), model.log_prob(x[:5]))


def test_logit_formula():
    logit, y = fb.Logit(0.05, low=-1.0, high=3.0), np.array([-1.0, 0.3, 3.0])
    p = 0.05 + 0.9 * (y + 1) / 4
    x, log_det = logit.inverse_and_log_det(tf.constant(y))
    np.testing.assert_allclose(x, np.log(p) - np.log1p(-p), atol=1e-12)
    np.testing.assert_allclose(log_det, np.log(0.9 / 4 / p / (1 - p)), atol=1e-12)


def test_logit_far_out():
    """Samples stay where they have latents, and densities of what saturates are finite."""
    logit, x = fb.Logit(0.05), tf.constant([-200.0, -20.0, 20.0, 200.0])
    y, log_det = logit.forward_and_log_det(x)
    np.testing.assert_allclose(y, [-1 / 18, -1 / 18, 1 + 1 / 18, 1 + 1 / 18], atol=1e-6)
    np.testing.assert_allclose(log_det, np.log(1 / 0.9) - np.abs(x), atol=1e-4)


def test_logit_refuses_what_has_no_latent():
    with pytest.raises(ValueError, match=r"takes data within .* 1 of 2 number.s. are not"):
        fb.Logit().inverse([0.5, 1.1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="takes data within"):
        tf.function(fb.Logit().inverse)(tf.constant([0.5, 1.1]))


def test_logit_under_glow():
    flow = flows.glow((4, 4, 1), 1, 1, 4, data_bijector=fb.Logit(low=-0.5, high=0.5), seed=0)
    pixels = flows.Dequantized(flow, levels=4)
    images = np.random.RandomState(0).randint(0, 4, size=(20, 4, 4, 1))
    flows.initialize(pixels, images)
    assert np.isfinite(pixels.log_prob(images)).all()
    samples = pixels.sample(5, seed=0).numpy()
    assert samples.min() >= 0 and samples.max() <= 3


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: fb.Householder(0), "features must be 1 or more, got 0"),
        (lambda: fb.QRLinear(3, 0), "reflections must be 1 or more, got 0"),
        (lambda: fb.QRLinear(3).forward(tf.zeros([2, 4])), "made for .3,. in the last"),
        (lambda: fb.Logit(0.0), "alpha must lie between 0 and 1/2, got 0.0"),
        (lambda: fb.Logit(low=1.0), "low must lie below high"),
    ],
)
def test_messages(make, said):
    with pytest.raises(ValueError, match=said):
        make()
