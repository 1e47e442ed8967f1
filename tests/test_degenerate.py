"""`initialize` warns of data without a density."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.core import FlowBijector


def table(n=256, columns=5):
    return np.random.RandomState(0).normal(size=(n, columns)).astype("float32")


def with_column(place, make):
    def change(x):
        x = x.copy()
        x[:, place] = make(x)
        return x

    return change


CASES = {
    "constant": (with_column(2, lambda x: 0.1), "column 2 is constant"),
    "constants": (
        lambda x: with_column(0, lambda x: 7.0)(with_column(3, lambda x: 0.0)(x)),
        "columns 0 and 3 are constant",
    ),
    "equal": (with_column(4, lambda x: x[:, 1]), "columns 1 and 4 are equal"),
    "dependent": (
        with_column(3, lambda x: 2.0 * x[:, 0] - x[:, 1] + 4.0),
        "columns 0, 1 and 3 are linearly dependent",
    ),
    "dependent in other units": (
        lambda x: with_column(3, lambda x: x[:, 0] * np.float32(1e-6))(
            x * np.float32([1e6, 1, 1, 1, 1])
        ),
        "columns 0 and 3 are linearly dependent",
    ),
    "one-hot": (
        lambda x: np.eye(5, dtype="float32")[np.arange(len(x)) % 5],
        "columns 0, 1, 2, 3 and 4 are linearly dependent; 251 of 256 rows repeat other rows",
    ),
    "repeated rows": (lambda x: np.tile(x[:64], [4, 1]), "192 of 256 rows repeat other rows"),
    "one example": (lambda x: x[:1], "columns 0, 1, 2, 3 and 4 are constant"),
}


def caught(flow, batch):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        flows.initialize(flow, batch)
    return [str(w.message) for w in found if "no density" in str(w.message)]


def flow_over(columns=5, **kwargs):
    return flows.real_nvp((columns,), layers=1, hidden=(2,), **kwargs)


@pytest.mark.parametrize(("change", "message"), CASES.values(), ids=CASES.keys())
def test_data_without_density_raise_one_warning(change, message):
    flow, x = flow_over(), change(table())
    (found,) = caught(flow, x)
    assert message in found
    assert caught(flow, x) == []
    assert np.isfinite(flow.log_prob(x)).all()


def test_columns_that_rounding_makes_constant():
    x = table().astype("float64") * 1e-3
    x[:, 1] += 1e6
    (found,) = caught(flow_over(), x)
    assert "column 1 is constant when rounded to float32" in found
    assert caught(flow_over(dtype=tf.float64), x) == []


@pytest.mark.parametrize(
    "batch",
    [
        table(),
        table(8),
        table(100, 60),
        table() * [1e6, 1.0, 1e-6, 1.0, 1e-12],
        1e4 + 1e-2 * table(),
        table() @ (0.999 + 1e-3 * np.eye(5, dtype="float32")),  # a correlation of 0.99999
        np.round(table(), 2),
        np.concatenate([table(), table()[:3]]),
    ],
    ids=["plain", "few", "wide", "units", "offset", "correlated", "rounded", "some repeats"],
)
def test_no_false_alarms(batch):
    assert caught(flow_over(batch.shape[1]), batch.astype("float32")) == []


def test_images_and_pixels_may_be_constant():
    assert caught(flows.glow((2, 2, 1), 1, 1, 2), np.zeros([64, 2, 2, 1], "float32")) == []
    assert caught(flows.Dequantized(flow_over(), 4), np.zeros([64, 5], "int32")) == []


class Doubled(FlowBijector):
    """Onto a surface: every vector twice over. (TFP's are for simplices and the like.)"""

    def __init__(self):
        super().__init__(forward_min_event_ndims=1, parameters={}, name="doubled")

    def _forward_and_log_det(self, x, context):
        return tf.concat([x, x], -1), tf.zeros([], x.dtype)

    def _inverse_and_log_det(self, y, context):
        return y[..., : y.shape[-1] // 2], tf.zeros([], y.dtype)

    def _forward_event_shape(self, shape):
        return shape[:-1] + [2 * shape[-1]]

    def _inverse_event_shape(self, shape):
        return shape[:-1] + [shape[-1] // 2]


def test_a_bijector_onto_a_surface_is_made_for_dependent_columns():
    base = flow_over(2)
    flow = flows.distributions.Flow(base.distribution, fb.Chain([Doubled(), base.bijector]))
    assert caught(flow, np.tile(table(256, 2), [1, 2])) == []
