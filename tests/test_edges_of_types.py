"""Bijectors at the edge of what TensorFlow has: bfloat16, integers, sizes that are not known."""

import numpy as np
import pytest
import tensorflow as tf
from cases import make

from tfp_flows import bijectors as fb

# One of each kind; the directions that search or solve are among them.
NAMES = (
    "affine-half",
    "spline-circular",
    "autoregressive-affine",
    "rotation",
    "residual",
    "planar",
    "sylvester",
    "mixture-half",
    "conv1x1",
    "squeeze",
    "logit",
)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    bijector, x, _ = make(name, tf.float32)
    y = bijector.forward(x)
    for there, value in ((bijector.forward, x), (bijector.inverse, y)):
        expected = there(value)
        found = there(tf.cast(value, tf.bfloat16))
        assert found.dtype == tf.bfloat16
        # 8 bits of precision, through several layers of arithmetic.
        np.testing.assert_allclose(tf.cast(found, tf.float32), expected, rtol=0.2, atol=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_integers_are_refused(name):
    bijector, x, _ = make(name, tf.float32)
    for there in (bijector.forward, bijector.inverse):
        with pytest.raises(TypeError, match="takes floating-point tensors, got int32"):
            there(tf.cast(x, tf.int32))


def test_squeeze_of_unknown_sizes():
    squeeze = fb.Squeeze()
    assert squeeze.forward_event_shape(tf.TensorShape([2, None, 8])).as_list() == [4, None, 2]
    assert squeeze.inverse_event_shape(tf.TensorShape([None, 4, 2])).as_list() == [None, 2, 8]
    assert squeeze.forward_event_shape(tf.TensorShape(None)).rank is None
    with pytest.raises(ValueError, match="cannot be cut"):
        squeeze.inverse_event_shape(tf.TensorShape([None, 3, 2]))
    y = tf.random.stateless_normal([5, 2, 4, 6, 1], [0, 1])
    spec = tf.TensorSpec([None, None, None, None, None])
    x = tf.function(squeeze.inverse, input_signature=[spec])(y)
    np.testing.assert_array_equal(x, squeeze.inverse(y))
    np.testing.assert_array_equal(tf.function(squeeze.forward, input_signature=[spec])(x), y)
