"""The contract of TFP's distributions, for `Flow`, `Conditioned` and `Dequantized`."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from small_flows import moved, small

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.distributions import Flow

tfb, tfd = tfp.bijectors, tfp.distributions

CONTEXTS = np.random.RandomState(0).normal(size=(4, 3)).astype(np.float32)


def exact():
    base = tfd.Sample(tfd.Normal(tf.zeros([], tf.float64), 1.0), 2)
    net = mlp(1, 2, (4,), context=3, dtype="float64")
    return moved(Flow(base, fb.Chain([fb.AffineCoupling(net)]), (3,)))


def pixels(context_shape=None):
    return flows.Dequantized(small(context_shape), levels=8)


MAKES = {
    "flow": small,
    "flow-batch": lambda: Flow(tfd.Sample(tfd.Normal(tf.zeros([4]), 1.0), 2), fb.ActNorm(2)),
    "flow-scalar": lambda: Flow(tfd.Normal(0.0, 1.0), tfb.Scale(2.0)),
    "conditioned": lambda: small((3,)).condition(CONTEXTS),
    "conditioned-one": lambda: small((3,)).condition(CONTEXTS[0]),
    "conditioned-table": lambda: small((3,)).condition(CONTEXTS[:, None]),
    "conditioned-float64": lambda: exact().condition(CONTEXTS),
    "conditioned-labels": lambda: flows.with_labels(small((3,)), 5).condition([0, 3, 4, 1]),
    "dequantized": pixels,
    "dequantized-conditioned": lambda: pixels((3,)).condition(CONTEXTS),
}


@pytest.fixture(scope="module", params=MAKES)
def d(request):
    return MAKES[request.param]()


def seeded(d):
    """Arguments that make a random log-density repeat itself."""
    return {"seed": [0, 3]} if d.dtype.is_integer else {}


def test_shapes_and_seeds(d):
    batch, event = tuple(d.batch_shape), tuple(d.event_shape)
    assert tuple(d.batch_shape_tensor()) == batch and tuple(d.event_shape_tensor()) == event
    assert bool(d.is_scalar_batch()) == (batch == ())
    assert bool(d.is_scalar_event()) == (event == ())
    for shape in ((), 3, (2, 3), np.int64(2), tf.constant([2, 1])):
        x = d.sample(shape, seed=[0, 1])
        lead = tuple(np.atleast_1d(shape)) if np.size(shape) else ()
        assert x.shape == lead + batch + event and x.dtype == d.dtype
        assert d.log_prob(x).shape == lead + batch
    np.testing.assert_array_equal(d.sample(3, seed=[0, 1]), d.sample(3, seed=[0, 1]))
    assert np.any(d.sample(30, seed=[0, 1]) != d.sample(30, seed=[0, 2]))
    x, log_prob = d.experimental_sample_and_log_prob((2, 3), seed=[0, 1])
    assert x.shape == (2, 3, *batch, *event) and log_prob.shape == (2, 3, *batch)
    if not d.dtype.is_integer:
        np.testing.assert_allclose(log_prob, d.log_prob(tf.identity(x)), rtol=1e-4, atol=1e-4)


def test_densities_agree(d):
    x, given = d.sample(3, seed=[0, 1]), seeded(d)
    log_prob = d.log_prob(x, **given)
    np.testing.assert_allclose(d.prob(x, **given), np.exp(log_prob), rtol=1e-5)
    np.testing.assert_allclose(d.unnormalized_log_prob(x, **given), log_prob, rtol=1e-6)
    np.testing.assert_allclose(
        tf.function(lambda x: d.log_prob(x, **given))(x), log_prob, rtol=1e-5, atol=1e-5
    )
    mapped = tf.vectorized_map(lambda x: d.log_prob(x, **given), x)
    if not given:
        np.testing.assert_allclose(mapped, log_prob, rtol=1e-4, atol=1e-5)
    assert mapped.shape == log_prob.shape


def test_copies(d):
    x, given = d.sample(seed=[0, 1]), seeded(d)
    copy = d.copy(name="another")
    assert copy.name == "another" and copy.parameters.keys() == d.parameters.keys()
    np.testing.assert_allclose(copy.log_prob(x, **given), d.log_prob(x, **given), rtol=1e-6)
    assert {id(v) for v in copy.variables} == {id(v) for v in d.variables}
    properties = type(d).parameter_properties()
    assert set(properties) <= set(d.parameters)
    assert d.name in str(d) or d.name in repr(d) or type(d).__name__ in repr(d)


def test_slices(d):
    x = d.sample(seed=[0, 1])
    values = None if d.dtype.is_integer else d.log_prob(x)
    ndims = len(d.batch_shape)
    slices = [..., tf.newaxis, (..., tf.newaxis)]
    slices += [0, -1, slice(1, 3), tf.constant(1), (tf.newaxis, slice(None, 2))] * (ndims > 0)
    slices += [(1, 0), (slice(1, None), ..., 0)] * (ndims > 1)
    for s in slices:
        expected = np.zeros(d.batch_shape)[s if not tf.is_tensor(s) else int(s)].shape
        part = d[s]
        assert part.batch_shape == expected and part.event_shape == d.event_shape
        event = (slice(None),) * len(d.event_shape)
        places = s if isinstance(s, tuple) else (int(s) if tf.is_tensor(s) else s,)
        places = places if ... in places else (*places, ...)
        there = x.numpy()[(*places, *event)]
        log_prob = part.log_prob(there)
        assert log_prob.shape == expected
        if values is not None:
            np.testing.assert_allclose(log_prob, values.numpy()[places], rtol=1e-4, atol=1e-5)
        assert part.sample(2, seed=[0, 1]).shape == (2, *expected, *d.event_shape)


def test_methods_without_a_closed_form_raise(d):
    bijector = getattr(d, "bijector", None)
    if bijector is not None and bijector.is_constant_jacobian:
        pytest.skip("affine maps have closed forms")
    x = d.sample(seed=[0, 1])
    calls = [d.mean, d.mode, d.stddev, d.variance, d.covariance, d.entropy]
    calls += [lambda: d.cdf(x), lambda: d.quantile(0.5), lambda: d.survival_function(x)]
    other = MAKES["flow"]()
    calls += [lambda: d.kl_divergence(other), lambda: d.cross_entropy(other)]
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()


def test_the_map_from_unconstrained_values(d):
    bijector = d.experimental_default_event_space_bijector()
    if d.dtype.is_integer:
        assert bijector is None
        return
    z = tf.ones([2, *d.batch_shape, *d.event_shape], d.dtype)
    x = bijector.forward(z)
    assert x.shape == z.shape
    np.testing.assert_allclose(bijector.inverse(tf.identity(x)), z, rtol=1e-4, atol=1e-4)
    log_det = bijector.forward_log_det_jacobian(z, len(d.event_shape))
    np.broadcast_to(log_det, [2, *d.batch_shape])  # a constant one need not be broadcast
    measure, _ = d.experimental_local_measure(x, backward_compat=True)
    np.testing.assert_allclose(measure, d.log_prob(tf.identity(x)), rtol=1e-4, atol=1e-4)


def test_wrong_values_raise(d):
    event = len(d.event_shape)
    if event:
        with pytest.raises(ValueError, match="event shape"):
            d.log_prob(tf.zeros([*d.batch_shape, 5], d.dtype))
    if not d.dtype.is_integer:
        for call in (d.log_prob, d.prob, d.unnormalized_log_prob):
            with pytest.raises(TypeError, match="continuous"):
                call(tf.zeros([*d.batch_shape, *d.event_shape], tf.int32))


def test_a_variable_context_is_read_at_every_call():
    flow = small((3,))
    variable = tf.Variable(CONTEXTS)
    given = flow.condition(variable)
    assert given.context is variable
    assert any(v is variable for v in given.variables)
    assert any(v is variable for v in given.trainable_variables)
    frozen = flow.condition(tf.Variable(CONTEXTS, trainable=False))
    assert len(frozen.trainable_variables) == len(flow.trainable_variables)
    x = tf.ones([4, 2])
    for call in (lambda: given.log_prob(x), lambda: given.sample(4, seed=[0, 1])):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(call())
        assert np.any(tape.gradient(loss, variable).numpy() != 0.0)
    with tf.GradientTape() as tape:
        loss = given[1].log_prob(x[1])
    assert np.any(tf.convert_to_tensor(tape.gradient(loss, variable))[1] != 0.0)
    before = given.log_prob(x)
    mapped = given.experimental_default_event_space_bijector()
    old = mapped.forward(x)
    variable.assign_add(tf.ones_like(variable))
    assert not np.allclose(given.log_prob(x), before, atol=1e-4)
    expected = flow.log_prob(x, context=variable + 0.0)
    np.testing.assert_allclose(given.log_prob(x), expected, rtol=1e-6)
    assert not np.allclose(mapped.forward(x), old, atol=1e-4)
    scale = tfp.util.TransformedVariable(np.exp(CONTEXTS), tfb.Exp())
    late = flow.condition(scale)
    assert any(v is scale.trainable_variables[0] for v in late.trainable_variables)
    scale.assign(2.0 * np.exp(CONTEXTS))
    expected = flow.log_prob(x, context=2.0 * np.exp(CONTEXTS))
    np.testing.assert_allclose(late.log_prob(x), expected, rtol=1e-4, atol=1e-5)


def test_contexts_of_open_batches():
    flow = small((3,))

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def call(c):
        given = flow.condition(c)
        return (
            given.batch_shape_tensor(),
            given.sample(2, seed=[0, 1]),
            given[1:].log_prob([1.0, 2]),
        )

    batch, drawn, log_prob = call(CONTEXTS)
    assert (tuple(batch), drawn.shape, log_prob.shape) == ((4,), (2, 4, 2), (3,))
    expected = flow.log_prob([1.0, 2.0], context=CONTEXTS[1:])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-5)


def test_in_a_layer_of_tfp():
    flow = small((3,))
    layer = tfp.layers.DistributionLambda(lambda c: flow.condition(c))
    model = tf_keras.Sequential([tf_keras.layers.Input((3,)), tf_keras.layers.Dense(3), layer])
    model.compile("adam", loss=lambda y, given: -given.log_prob(y))
    x = np.random.RandomState(1).normal(size=(4, 2)).astype(np.float32)
    weights = model.layers[0].get_weights()[0].copy()
    assert np.isfinite(model.fit(CONTEXTS, x, verbose=0).history["loss"][0])
    assert np.any(model.layers[0].get_weights()[0] != weights)
    given, plain = model(CONTEXTS), flow.condition(model.layers[0](CONTEXTS))
    np.testing.assert_allclose(given.log_prob(x), plain.log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(given.prob(x), plain.prob(x), rtol=1e-5)
    assert given.sample(3).shape == (3, 4, 2) and given.batch_shape == [4]
    assert tf.convert_to_tensor(given).shape == (4, 2)
    _, log_prob = given.experimental_sample_and_log_prob(2)
    assert log_prob.shape == (2, 4)
    with pytest.raises(ValueError, match="event shape"):
        given.log_prob(x[:, :1])


def test_unconstrained_joint_models():
    flow = small((3,))
    joint = tfd.JointDistributionNamed(
        {"z": tfd.Sample(tfd.Normal(0.0, 1.0), 3), "x": lambda z: flow.condition(z)}
    )
    bijector = joint.experimental_default_event_space_bijector()
    values = {"z": tf.constant(CONTEXTS[0]), "x": tf.ones([2])}
    found = bijector.forward(values)
    features = flow.encode_context(CONTEXTS[0])
    np.testing.assert_allclose(
        found["x"], flow.bijector.forward(values["x"], context=features), rtol=1e-5
    )
