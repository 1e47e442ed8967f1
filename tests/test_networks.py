"""Networks of other libraries as conditioners: what is accepted, and error messages."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.keras_engine import IS_LEGACY, keras

tfb, tfd = tfp.bijectors, tfp.distributions

X = np.random.RandomState(0).normal(size=(6, 3)).astype("float32")


def around(bijector, size):
    return tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), size), bijector)


@pytest.mark.parametrize(
    ("make", "params"), [(fb.MaskedAutoregressive, 2), (fb.SplineAutoregressive, 3 * 8 - 1)]
)
@pytest.mark.parametrize("conditional", [False, True])
def test_autoregressive_networks_of_tfp(make, params, conditional):
    given = {"conditional": True, "conditional_event_shape": [1]} if conditional else {}
    net = tfb.AutoregressiveNetwork(params, event_shape=[3], hidden_units=[8], **given)
    bijector = make(net)
    context = {"context": tf.constant(X[:, :1])} if conditional else {}
    y = bijector.forward(X, **context)
    np.testing.assert_allclose(bijector.inverse(tf.identity(y), **context), X, atol=1e-4)
    params_of_x = net(tf.constant(X), *context.values())
    assert params_of_x.shape == [6, 3, params]
    with tf.GradientTape() as tape:
        tape.watch(point := tf.constant(X))
        z = bijector.inverse(point, **context)
    jacobian = np.diagonal(tape.batch_jacobian(z, point), axis1=1, axis2=2)
    log_det = bijector.inverse_log_det_jacobian(tf.constant(X), 1, **context)
    np.testing.assert_allclose(log_det, np.sum(np.log(jacobian), -1), atol=1e-4)


class Holder(tf.Module):
    """A plain module around Keras layers, in an attribute and in a list."""

    def __init__(self, regularizer=None):
        super().__init__()
        self.first = keras.layers.Dense(4, "tanh", kernel_regularizer=regularizer)
        self.rest = [keras.layers.Dense(2)]
        self.first.build((None, 1))
        self.rest[0].build((None, 4))

    def __call__(self, x):
        return self.rest[0](self.first(x))


@pytest.mark.parametrize("stacked", [False, True])
def test_layers_of_a_module_are_trained(stacked):
    bijector = fb.AffineCoupling(Holder())
    flow = around(fb.Repeat(bijector, 2) if stacked else bijector, 2)
    assert len(flow.trainable_variables) == 4
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.SGD(0.1))
    before = [v.numpy() for v in flow.trainable_variables]
    model.fit(X[:, :2], verbose=0)
    for one, two in zip(before, flow.trainable_variables, strict=True):
        assert (one != two.numpy()).any()


@pytest.mark.skipif(IS_LEGACY, reason="variables of tf_keras do not know their regularisers")
def test_regularisers_of_layers_of_a_module_count():
    losses = []
    for regularizer in (None, keras.regularizers.L1(2.0)):
        keras.utils.set_random_seed(0)
        net = Holder(regularizer)
        model = flows.FlowModel(around(fb.AffineCoupling(net), 2))
        model.compile("sgd")
        losses.append(model.evaluate(X[:, :2], verbose=0, return_dict=True)["loss"])
    expected = 2.0 * np.abs(net.first.get_weights()[0]).sum()
    np.testing.assert_allclose(losses[1] - losses[0], expected, rtol=1e-4)


def test_unbuilt_networks_are_a_clear_error():
    for use in (
        lambda b: around(b, 2).trainable_variables,
        lambda b: b.trainable_variables,
        lambda b: fb.Chain([b]).variables,
        lambda b: fb.Repeat(b, 2),
    ):
        bijector = fb.AffineCoupling(keras.Sequential([keras.layers.Dense(2)]))
        with pytest.raises(ValueError, match=r"not built.*Give it an Input layer"):
            use(bijector)


@pytest.mark.skipif(IS_LEGACY, reason="symbolic tensors of tf_keras go through TensorFlow's ops")
def test_symbolic_tensors_are_an_error():
    with pytest.raises(TypeError, match=r"symbolic KerasTensor.*in the `call` of a layer"):
        fb.ActNorm(2)(keras.Input((2,)))
    with pytest.raises(TypeError, match="symbolic KerasTensor"):
        fb.ActNorm(2).inverse(keras.Input((2,)))
