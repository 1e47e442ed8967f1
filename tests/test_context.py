"""One `context=` through flows and bijectors: shapes, meaning, and errors."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import LabelEmbedding, conv, mlp
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions

EPS = 1e-5


def net(identity, context):
    return tf.concat([identity * context[..., :1], context[..., 1:2]], -1)


def small_flow() -> Flow:
    parts = [fb.AffineCoupling(net), fb.Invert(fb.AffineCoupling(net, swap=True))]
    return Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.Chain(parts), context_shape=2)


def pair(n: int) -> tuple[tf.Tensor, tf.Tensor]:
    random = np.random.RandomState(0)
    return tuple(tf.constant(random.normal(size=(n, 2)), tf.float32) for _ in range(2))


def test_batch_shapes_broadcast():
    flow, (x, c) = small_flow(), pair(5)
    each = flow.log_prob(x, context=c)
    np.testing.assert_allclose(flow.log_prob(x[1], context=c[1]), each[1], rtol=EPS)
    np.testing.assert_allclose(flow.log_prob(x, context=c[1])[1], each[1], rtol=EPS)
    np.testing.assert_allclose(flow.log_prob(x[1], context=c)[1], each[1], rtol=EPS)
    table = flow.log_prob(x[:, None], context=c[None])
    np.testing.assert_allclose(tf.linalg.diag_part(table), each, rtol=EPS)
    assert flow.sample(5, seed=1, context=c).shape == [5, 2]
    assert flow.sample((3, 5), seed=1, context=c).shape == [3, 5, 2]
    assert flow.sample(7, seed=1, context=c[0]).shape == [7, 2]
    spec = tf.TensorSpec([None, 2])
    open_batch = tf.function(lambda x, c: flow.log_prob(x, context=c), input_signature=[spec, spec])
    np.testing.assert_allclose(open_batch(x, c), each, rtol=EPS)
    np.testing.assert_allclose(open_batch(x, c[1:2])[1], each[1], rtol=EPS)


def test_condition_gives_a_plain_distribution():
    flow, (x, c) = small_flow(), pair(5)
    given = flow.condition(c)
    assert (given.batch_shape, given.event_shape) == ([5], [2])
    np.testing.assert_allclose(given.log_prob(x), flow.log_prob(x, context=c), rtol=EPS)
    samples, log_prob = given.experimental_sample_and_log_prob(4, seed=1)
    assert samples.shape == [4, 5, 2]
    np.testing.assert_allclose(given.log_prob(tf.identity(samples)), log_prob, rtol=1e-4)
    expected = flow.sample((4, 5), seed=[0, 1], context=c)
    np.testing.assert_array_equal(given.sample(4, seed=[0, 1]), expected)
    independent = tfd.Independent(given, 1)
    total = tf.reduce_sum(given.log_prob(x))
    np.testing.assert_allclose(independent.log_prob(x), total, rtol=EPS)
    mixture = tfd.MixtureSameFamily(tfd.Categorical(logits=tf.zeros(5)), given)
    expected = tf.reduce_logsumexp(flow.log_prob(x[:, None], context=c), -1) - np.log(5.0)
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=EPS)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f, x, c: f.log_prob(x), "needs a context of shape"),
        (lambda f, x, c: f.sample(3), "needs a context of shape"),
        (lambda f, x, c: f.log_prob(x, context=c[:, :1]), "takes contexts of shape"),
        (lambda f, x, c: f.log_prob(x, context=c[:3]), "does not broadcast to that of the values"),
        (lambda f, x, c: f.sample(3, context=c), "does not broadcast to the sample shape"),
        (lambda f, x, c: flows.nice((2,), 2).log_prob(x, context=c), "built without a context"),
        (lambda f, x, c: flows.nice((2,), 2).sample(1, context=c), "built without a context"),
        (lambda f, x, c: flows.nice((2,), 2).condition(c), "built without a context"),
        (lambda f, x, c: flows.with_labels(f, 0), "classes must be 1 or more"),
        (lambda f, x, c: flows.with_labels(flows.nice((2,), 2), 3), "made with context_shape"),
        (lambda f, x, c: flows.nice((2,), context_shape=()), "For labels see flows.with_labels"),
        (lambda f, x, c: fb.AffineCoupling(mlp(1, 2)).forward(x, context=c), "takes no context"),
        (lambda f, x, c: fb.AffineCoupling(mlp(1, 2, context=2)).forward(x), "needs a context"),
        (lambda f, x, c: fb.ContextAffine(net).forward(x), "needs a context"),
        (lambda f, x, c: conv((4, 4, 1), 2, context=(2, 2, 1)), "A context is a vector"),
        (lambda f, x, c: f.bijector.forward(x, context=c[None]), "batch dimensions"),
    ],
)
def test_arguments_that_do_not_fit_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_flow(), *pair(5))


@pytest.mark.parametrize(
    "labels, message", [([0, 3], "Invalid: 1 of 2"), ([0, -1], "1 of 2"), ([0.0, 1.0], "float")]
)
def test_invalid_labels_raise(labels, message):
    flow = flows.with_labels(flows.nice((2,), 2, context_shape=4), classes=3)
    with pytest.raises(ValueError, match=message):
        flow.log_prob(tf.zeros([2, 2]), context=labels)
    if labels[0] != 0.0 or labels[1] == 3:
        traced = tf.function(lambda c: flow.log_prob(tf.zeros([2, 2]), context=c))
        with pytest.raises(tf.errors.InvalidArgumentError, match="whole-number labels"):
            traced(tf.constant(labels))


@pytest.mark.parametrize(
    "make",
    [
        lambda: flows.nice((4,), 2, (8,), context_shape=3),
        lambda: flows.real_nvp((4,), 2, (8,), context_shape=3),
        lambda: flows.real_nvp((4, 4, 1), hidden=4, blocks=1, context_shape=3),
        lambda: flows.neural_spline((4,), 2, (8,), context_shape=3),
        lambda: flows.glow((4, 4, 1), 2, 1, 4, context_shape=3),
        lambda: flows.glow((4, 4, 1), 2, 1, 4, stacked=False, context_shape=3),
    ],
    ids=["nice", "real_nvp", "real_nvp-image", "neural_spline", "glow", "glow-unrolled"],
)
def test_every_network_gets_a_gradient_through_the_context(make):
    flow = make()
    x = tf.constant(np.random.RandomState(0).normal(size=(8, *flow.event_shape)), tf.float32)
    for variable in flow.trainable_variables:  # away from the zeros that networks end in
        noise = np.random.RandomState(1).normal(size=variable.shape) * 0.1
        variable.assign_add(tf.constant(noise, variable.dtype))
    context = tf.random.stateless_normal([8, 3], [0, 1])
    flows.initialize(flow, x, context=context)
    with tf.GradientTape() as tape:
        tape.watch(context)
        loss = tf.reduce_mean(flow.log_prob(x, context=context))
    gradients = tape.gradient(loss, [context, *flow.trainable_variables])
    for gradient in gradients:
        assert gradient is not None and np.any(tf.convert_to_tensor(gradient).numpy() != 0.0)


def test_the_last_prior_of_glow_depends_on_the_class():
    flow = flows.with_labels(flows.glow((2, 2, 1), 1, 1, 4, context_shape=2, seed=0), 2)
    prior = flow.bijector.scales[-1].bijectors[-1]
    assert isinstance(prior, fb.ContextAffine)
    for variable in prior.trainable_variables:
        variable.assign(tf.ones_like(variable))
    z = tf.zeros([2, 4])
    features = flow.encode_context([0, 1])
    one, other = flow.bijector.forward(z, context=features)
    assert not np.allclose(one, other)


def test_each_label_has_its_own_vector():
    embed = LabelEmbedding(3, 5)
    again = LabelEmbedding.from_config(embed.get_config())
    assert [tuple(v.shape) for v in again.trainable_variables] == [(3, 5)]
    assert np.linalg.matrix_rank(keras.ops.convert_to_numpy(embed(np.arange(3)))) == 3


def test_a_custom_context_encoder():
    encoder = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, "tanh")])
    base, coupling = tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.AffineCoupling(mlp(1, 2, context=2))
    flow = Flow(base, coupling, context_shape=3, context_encoder=encoder)
    assert len(flow.trainable_variables) == len(coupling.trainable_variables) + 2
    x, context = tf.ones([4, 2]), tf.random.stateless_normal([4, 3], [0, 0])
    expected = Flow(base, coupling, 2).log_prob(x, context=encoder(context))
    np.testing.assert_allclose(flow.log_prob(x, context=context), expected, rtol=EPS)


class Counted(tf.Module):
    """A network that counts the rows that it is given."""

    def __init__(self, net):
        super().__init__()
        self.net, self.rows = net, []
        self.weights = list(net.trainable_variables) if hasattr(net, "trainable_variables") else []

    def __call__(self, x):
        self.rows.append(x.shape[0])
        return self.net(x)


def of_series(kind):
    last = {
        "conv": [keras.layers.Conv1D(3, 3), keras.layers.GlobalAveragePooling1D()],
        "gru": [keras.layers.GRU(3)],
        "masked gru": [keras.layers.Masking(-9.0), keras.layers.GRU(3)],
    }[kind]
    encoder = keras.Sequential([keras.layers.Input((7, 2)), *last])
    coupling = fb.AffineCoupling(mlp(1, 2, (4,), context=3))
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    return Flow(base, fb.Chain([coupling]), (7, 2), encoder), encoder


@pytest.mark.parametrize("kind", ["conv", "gru"])
def test_contexts_of_any_batch_rank_reach_the_encoder(kind):
    flow, _ = of_series(kind)
    series = tf.random.stateless_normal([3, 4, 7, 2], [0, 1])
    x = tf.random.stateless_normal([3, 4, 2], [0, 2])
    given = flow.condition(series)
    each = tf.stack([flow.log_prob(x[i], context=series[i]) for i in range(3)])
    np.testing.assert_allclose(given.log_prob(x), each, rtol=1e-4, atol=1e-5)
    one = flow.condition(series[1, 2])
    np.testing.assert_allclose(one.log_prob(x[1, 2]), each[1, 2], rtol=1e-4, atol=1e-5)
    assert one.sample(5, seed=[0, 1]).shape == (5, 2)
    assert given.sample(5, seed=[0, 1]).shape == (5, 3, 4, 2)
    drawn, log_prob = given.experimental_sample_and_log_prob((2, 5), seed=[0, 1])
    assert drawn.shape == (2, 5, 3, 4, 2)
    np.testing.assert_allclose(given.log_prob(drawn), log_prob, rtol=1e-3, atol=1e-4)
    opened = tf.function(
        lambda c: flow.condition(c).log_prob(x),
        input_signature=[tf.TensorSpec([None, None, 7, 2])],
    )
    np.testing.assert_allclose(opened(series), each, rtol=1e-4, atol=1e-5)


def test_each_context_is_encoded_once():
    base, coupling = tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.AffineCoupling(mlp(1, 2, context=2))
    encoder = Counted(lambda c: c[:, 0, :] + c[:, 1, :])
    flow = Flow(base, coupling, (2, 2), encoder)
    one, many = tf.ones([2, 2]), tf.ones([3, 1, 2, 2])
    flow.log_prob(tf.ones([1000, 2]), context=one)
    flow.sample(1000, context=one)
    flow.condition(many).log_prob(tf.ones([3, 100, 2]))
    flow.condition(many).sample(100)
    flow.condition(many).experimental_sample_and_log_prob(100)
    assert encoder.rows == [1, 1, 3, 3, 3]
    encoder.rows.clear()
    model = flows.FlowModel(flow)
    encoder.rows.clear()
    model.log_prob(np.ones([50, 2], np.float32), context=one.numpy())
    assert set(encoder.rows) <= {None}  # traced, with an open batch


def test_series_of_any_length_are_padded_and_masked():
    with pytest.raises(ValueError, match="Pad what varies in length"):
        Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.Chain([]), (None, 2))
    flow, encoder = of_series("masked gru")
    series = np.full([1, 7, 2], -9.0, np.float32)
    series[:, :4] = np.random.RandomState(0).normal(size=(4, 2))
    expected = encoder.layers[-1](tf.constant(series[:, :4]))
    np.testing.assert_allclose(flow.encode_context(series), expected, rtol=1e-5, atol=1e-6)


def test_an_encoder_must_return_vectors():
    flow = Flow(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.Chain([]), (7, 2), lambda c: c)
    with pytest.raises(ValueError, match=r"must map .* to vectors"):
        flow.log_prob(tf.zeros([1, 2]), context=tf.zeros([1, 7, 2]))


def test_bases_that_a_context_does_not_reach_raise():
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    inner = Flow(base, fb.AffineCoupling(net), 2)
    with pytest.raises(ValueError, match="the base takes a context itself"):
        Flow(inner, fb.Chain([fb.AffineCoupling(net)]), 2)
    batch = tfd.Sample(tfd.Normal(tf.zeros([3]), 1.0), 2)
    with pytest.raises(ValueError, match="wrap the base in tfd"):
        Flow(batch, fb.AffineCoupling(net), 2)


STACKED = {
    "coupling": lambda: fb.AffineCoupling(mlp(1, 2, (4,), context=3)),
    "stacked": lambda: flows.real_nvp((2,), 2, (4,), context_shape=3).bijector,
    "maf": lambda: flows.maf((2,), 2, (4,), context_shape=3).bijector,
    "context-affine": lambda: fb.ContextAffine(mlp(3, 4)),
    "planar": lambda: flows.planar((2,), 2, context_shape=3).bijector,
}


@pytest.mark.parametrize("name", STACKED)
def test_bijectors_take_contexts_of_any_kind(name):
    bijector = STACKED[name]()
    for v in bijector.trainable_variables:
        v.assign_add(0.1 * tf.ones_like(v))
    z, c = tf.random.stateless_normal([4, 2], [0, 1]), tf.random.stateless_normal([4, 3], [0, 2])
    given = [c, c.numpy(), c.numpy().tolist(), c.numpy().astype(np.float64), tf.Variable(c)]
    expected, log_det = bijector.forward_and_log_det(z, context=c)
    for context in given:
        y = bijector.forward(tf.identity(z), context=context)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
        found = bijector.forward_log_det_jacobian(tf.identity(z), 1, context=context)
        np.testing.assert_allclose(found, log_det, rtol=1e-5, atol=1e-6)
        back = bijector.inverse(tf.identity(y), context=context)
        np.testing.assert_allclose(back, z, rtol=1e-3, atol=1e-3)
    # One row for all, and one without a batch: as if it were given for each.
    all_alike = bijector.forward(tf.identity(z), context=tf.repeat(c[:1], 4, axis=0))
    for context in (c[:1], c[0]):
        one = bijector.forward(tf.identity(z), context=context)
        np.testing.assert_allclose(one, all_alike, rtol=1e-5, atol=1e-6)
    opened = tf.function(
        lambda z, c: bijector.forward(z, context=c),
        input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None, 3])],
    )
    np.testing.assert_allclose(opened(z, c[:1]), all_alike, rtol=1e-5, atol=1e-6)
    unknown = tf.function(
        lambda c: bijector.forward(z, context=c), input_signature=[tf.TensorSpec(None)]
    )
    with pytest.raises(ValueError, match="unknown rank"):
        unknown(c)


def test_values_and_contexts_of_two_dtypes():
    affine = fb.ContextAffine(lambda c: tf.concat([c, 0.0 * c], -1))
    x = tf.constant([[1.0, 2.0]], tf.float64)
    y = affine.forward(x, context=tf.constant([[10.0, 20.0]], tf.float32))
    assert y.dtype == tf.float64
    np.testing.assert_allclose(y, [[11.0, 22.0]])
