"""`copy` and `pickle` of flows and bijectors: complete and independent, or a clear error."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small_flows import moved

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.core import variable_paths
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions
ROWS = np.random.RandomState(0).normal(size=(8, 3)).astype(np.float32)


def conditional():
    return flows.real_nvp((3,), 2, (4,), context_shape=(2,))


KINDS = {
    "stacked": (lambda: flows.real_nvp((3,), 3, (4,)), ROWS),
    "random order": (lambda: flows.maf((3,), 1, (4,), order="random"), ROWS),
    "float64": (lambda: flows.nice((3,), 2, (4,), dtype=tf.float64), ROWS.astype(np.float64)),
    "conditioned": (lambda: conditional().condition(tf.ones([8, 2])), ROWS),
    "labels": (
        lambda: flows.with_labels(conditional(), 3).condition(tf.zeros([8], tf.int32)),
        ROWS,
    ),
    "of TFP inside": (
        lambda: Flow(
            tfd.Sample(tfd.Normal(tf.Variable(0.5), 1.0), 3),
            tfb.Chain([tfb.Shift(tf.Variable([1.0, 2.0, 3.0])), fb.ActNorm(3)]),
        ),
        ROWS,
    ),
}
WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda obj: pickle.loads(pickle.dumps(obj))}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_equal_and_independent(kind, way):
    build, x = KINDS[kind]
    original = moved(build())
    expected = original.log_prob(x)
    twin = WAYS[way](original)
    assert type(twin) is type(original) and twin.name == original.name
    np.testing.assert_array_equal(twin.log_prob(x), expected)
    assert not {id(v) for v in twin.variables} & {id(v) for v in original.variables}
    assert list(variable_paths(twin)) == list(variable_paths(original))
    for variable in twin.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    assert not np.allclose(twin.log_prob(x), expected)
    np.testing.assert_array_equal(original.log_prob(x), expected)


@pytest.mark.parametrize("way", WAYS)
def test_dequantized_and_bijectors(way):
    pixels = flows.Dequantized(flows.glow((2, 2, 1), 1, 1, 2), levels=8)
    x = np.arange(8).reshape(2, 2, 2, 1)
    twin = WAYS[way](pixels)
    np.testing.assert_array_equal(twin.log_prob(x, seed=[0, 1]), pixels.log_prob(x, seed=[0, 1]))
    bijector = moved(flows.real_nvp((3,), 2, (4,)).bijector)
    np.testing.assert_array_equal(WAYS[way](bijector).inverse(ROWS), bijector.inverse(ROWS))


def test_shared_parts_stay_shared():
    layer = fb.AffineCoupling(flows.conditioners.mlp(2, 2, (4,)), mask="alternate")
    chain = copy.deepcopy(fb.Chain([layer, fb.ActNorm(3), layer]))
    assert chain.bijectors[0] is chain.bijectors[2]
    flow, bijector = copy.deepcopy([f := flows.nice((3,), 2, (4,)), f.bijector])
    assert flow.bijector is bijector
    assert copy.copy(f).variables[0] is f.variables[0]


def test_functions():
    function = fb.AffineCoupling(lambda a: tf.concat([a, tf.sin(a)], -1))
    x = tf.ones([2, 2])
    np.testing.assert_array_equal(copy.deepcopy(function).forward(x), function.forward(x))
    with pytest.raises(TypeError, match=r"cannot be pickled.*register_keras_serializable"):
        pickle.dumps(function)


def test_a_flow_model():
    model = flows.FlowModel(moved(flows.nice((3,), 2, (4,))))
    for way in WAYS.values():
        twin = way(model)
        assert isinstance(twin, keras.Model) and twin.flow is not model.flow
        np.testing.assert_array_equal(twin.log_prob(ROWS), model.log_prob(ROWS))
