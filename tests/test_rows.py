"""An example that is not finite has a result that is not, and does not change the others."""

import numpy as np
import pytest
import tensorflow as tf
from cases import BIJECTORS, each, make

QUICK = (
    "affine-context",
    "autoregressive-affine",
    "mixture-half",
    "ode-adaptive",
    "planar",
    "repeat-reversible",
    "residual",
    "spline-half",
    "sylvester",
)
# Those refuse data outside of their support, by name.
BOUNDED = ("logit", "rotation")
BOUNDED += ("spline-circular", "neural_spline-circular", "autoregressive-circular")


@each([n for n in BIJECTORS if not n.startswith(BOUNDED)], quick=lambda name: name in QUICK)
def test_a_row_that_is_not_finite(name):
    bijector, x, kwargs = make(name, tf.float64)
    values = {"forward": x, "inverse": tf.identity(bijector.forward(x, **kwargs))}
    for direction, value in values.items():
        results = traced(bijector, direction, kwargs)
        expected = results(value)
        for bad in (np.nan, np.inf, -np.inf):
            spoilt = value.numpy()
            spoilt[1].flat[0] = bad
            found = results(tf.constant(spoilt))
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a[::2], b[::2], rtol=1e-7, atol=1e-7)
            assert not all(np.isfinite(a[1]).all() for a in found[:2])


def traced(bijector, direction: str, kwargs):
    """The value, the log-det of each example, and the gradient of all but the second."""
    ndims = getattr(bijector, f"{direction}_min_event_ndims")

    @tf.function(autograph=False)
    def results(x):
        rank = x.shape.rank
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = getattr(bijector, direction)(x, **kwargs)
            log_det = getattr(bijector, f"{direction}_log_det_jacobian")(
                x, event_ndims=max(ndims, rank - 1), **kwargs
            )
            log_det += tf.zeros([3], x.dtype)
            loss = tf.reduce_sum(tf.sin(value[::2])) + tf.reduce_sum(log_det[::2])
        return value, log_det, tape.gradient(loss, x)

    return results


@pytest.mark.parametrize("name", ["residual", "autoregressive-affine"])
def test_values_that_overflow_on_the_way(name):
    """Finite examples of any size are right, or not finite: no wrong numbers, and no error."""
    bijector = make(name, tf.float32)[0]
    sizes = np.array([[1.0], [1e25], [3e38]], "float32")
    y = bijector.forward(tf.constant(sizes * np.ones([3, 3], "float32"))).numpy()
    back = bijector.inverse(tf.constant(y)).numpy()
    near = np.abs(back - sizes) <= 1e-4 * np.abs(sizes)
    assert np.all(near | ~np.isfinite(back)) and near[0].all()
