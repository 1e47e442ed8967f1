"""Properties over drawn shapes, dtypes, masks, seeds, and values at the limits of floats.

Draws are deterministic (`derandomize`), so a failure repeats; the slow tests draw many more.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from drawn import FAMILIES, SEEDS, SIZES, Net
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import made

tfd = tfp.distributions

TRACED = ("residual", "repeat")  # they trace a graph for each example
BATCHES = st.lists(st.integers(0, 3), max_size=3)
DTYPES = st.sampled_from([tf.float32, tf.float64])


def drawing(examples):
    """Settings of a test that draws so many examples."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def in_every_family(few, many):
    """Makes two tests of `check(name, data)`: one with few examples, and a slow one."""

    def decorate(check):
        names = [pytest.param(n, few, marks=[pytest.mark.slow] * (n in TRACED)) for n in FAMILIES]
        names += [pytest.param(n, many, marks=pytest.mark.slow) for n in FAMILIES]

        @pytest.mark.parametrize("name, examples", names)
        def test(name, examples):
            drawing(examples)(given(data=st.data())(lambda data: check(name, data)))()

        return test

    return decorate


def arguments(case, batch, dtype, random, forward=True):
    """Ordinary values of one side, and the context."""
    event = case.event if forward else tuple(case.bijector.forward_event_shape(case.event))
    value, bound = random.normal(size=(*batch, *event)), case.bound if forward else case.data_bound
    if bound is not None:
        value = bound * np.tanh(value)
    kwargs = {}
    if case.context:
        kwargs["context"] = tf.constant(random.normal(size=(*batch, case.context)), dtype)
    return tf.constant(value, dtype), kwargs


def directions(case):
    """Each direction: whether it is forward, its name and the other's, and both event ranks."""
    ranks = len(case.event), case.bijector.forward_event_ndims(len(case.event))
    yield True, "forward", "inverse", *ranks
    yield False, "inverse", "forward", *ranks[::-1]


def close(found, expected, dtype, atol=None):
    """To a few square roots of the machine epsilon, which leaves ill-conditioned draws to spare."""
    tolerance = 4.0 * float(np.sqrt(np.finfo(dtype.as_numpy_dtype).eps))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=atol or tolerance)


@in_every_family(few=6, many=30)
def test_inverse(name, data):
    """Directions are inverse, log-dets opposite, and one call equals two separate ones."""
    seed, dtype, batch = data.draw(SEEDS), data.draw(DTYPES), data.draw(BATCHES)
    case = FAMILIES[name](data.draw, dtype, seed)
    random, b = np.random.RandomState(seed), case.bijector
    for forward, there, back, ndims, other_ndims in directions(case):
        value, kwargs = arguments(case, batch, dtype, random, forward)
        out = getattr(b, there)(value, **kwargs)
        log_det = getattr(b, f"{there}_log_det_jacobian")(value, ndims, **kwargs)
        assert out.dtype == log_det.dtype == dtype
        assert out.shape[: len(batch)] == batch
        fresh = tf.identity(out)  # not in any cache
        close(getattr(b, back)(fresh, **kwargs), value, dtype)
        undone = getattr(b, f"{back}_log_det_jacobian")(fresh, other_ndims, **kwargs)
        close(undone, -log_det, dtype)
        if isinstance(b, flows.core.FlowBijector):
            both = getattr(b, f"{there}_and_log_det")(tf.identity(value), ndims, **kwargs)
            close(both[0], out, dtype)
            close(both[1], log_det, dtype)


MAGNITUDES = (0.0, 1e-45, 1e-38, 1e-30, 1e-19, 1e-7, 0.5, 1.0, 3.0, 1e3, 1e7, 1e19, 1e25, 1e30)
EDGES = st.sampled_from([sign * m for m in MAGNITUDES for sign in (1.0, -1.0)])
ENTRIES = st.lists(st.one_of(EDGES, st.floats(-4.0, 4.0, width=32)), min_size=1, max_size=8)

# Values without an image or a latent raise an error that explains what to do.
ERRORS = {
    ("spline-circular", "forward"): "wrap them onto the circle",
    ("spline-circular", "inverse"): "wrap them onto the circle",
    ("autoregressive-circular", "forward"): "wrap them onto the circle",
    ("autoregressive-circular", "inverse"): "wrap them onto the circle",
    ("rotation", "forward"): "wrap them onto the circle",
    ("rotation", "inverse"): "wrap them onto the circle",
    ("logit", "inverse"): "takes data within",
}
BEYOND = 1.12  # times the bound: more than rounding, and the margin of alpha, explain


@in_every_family(few=8, many=40)
def test_edges_of_floats(name, data):
    """From the smallest float to 1e30 nothing becomes NaN silently, and no density is infinite."""
    seed, dtype = data.draw(SEEDS), data.draw(DTYPES)
    case = FAMILIES[name](data.draw, dtype, seed)
    b, random = case.bijector, np.random.RandomState(seed)
    for forward, there, _, ndims, _ in directions(case):
        value, kwargs = arguments(case, [2], dtype, random, forward)
        entries, value = data.draw(ENTRIES), value.numpy()
        value.flat[: len(entries)] = entries[: value.size]
        bound = case.bound if forward else case.data_bound
        if (name, there) in ERRORS and np.abs(value).max() > bound:
            if np.abs(value).max() > bound * BEYOND:
                with pytest.raises(ValueError, match=ERRORS[name, there]):
                    getattr(b, there)(tf.constant(value), **kwargs)
            continue
        value = tf.constant(value)
        out = getattr(b, there)(value, **kwargs)
        log_det = getattr(b, f"{there}_log_det_jacobian")(value, ndims, **kwargs)
        assert not np.isnan(out).any() and not np.isnan(log_det).any(), (out, log_det)
        if not forward:
            latent = tf.reduce_sum(tfd.Normal(tf.zeros([], dtype), 1.0).log_prob(out))
            log_prob = latent + tf.reduce_sum(log_det)
            assert np.isfinite(log_prob) or np.isneginf(log_prob), (out, log_det)


@in_every_family(few=3, many=10)
def test_half_precision(name, data):
    """With tensors of float16 a bijector is accurate to that precision."""
    seed = data.draw(SEEDS)
    case = FAMILIES[name](data.draw, tf.float32, seed)
    assume("tfp.bijectors" not in repr(case.bijector))  # TFP's chains add log-dets in float32
    random = np.random.RandomState(seed)
    for forward, there, _, ndims, _ in directions(case):
        value, kwargs = arguments(case, [3], tf.float16, random, forward)
        single = {k: tf.cast(v, tf.float32) for k, v in kwargs.items()}
        results = []
        for v, given_ in ((value, kwargs), (tf.cast(value, tf.float32), single)):
            out = getattr(case.bijector, there)(v, **given_)
            log_det = getattr(case.bijector, f"{there}_log_det_jacobian")(v, ndims, **given_)
            assert out.dtype == log_det.dtype == v.dtype
            results.append((out, log_det))
        for half, exact in zip(*results, strict=True):
            assume(np.abs(exact).max() < 100)  # such a stretch loses the digits
            close(tf.cast(half, tf.float32), exact, tf.float16)


@drawing(60)
@given(
    event=st.lists(SIZES, min_size=1, max_size=3),
    shape=st.lists(SIZES, max_size=3),
    kind=st.sampled_from(["all", "none", "integers", "floats", "shape", "name"]),
    swap=st.booleans(),
)
def test_invalid_masks(event, shape, kind, swap):
    if kind == "shape":
        assume(not shape or shape != event[len(event) - len(shape) :])
    masks = {
        "all": np.ones(event, bool),
        "none": np.zeros(event, bool),
        "integers": np.resize([1, 0], event),
        "floats": np.resize([0.5, 0.0], event),
        "shape": np.resize([True, False], shape),
        "name": "checkers",
    }
    with pytest.raises(ValueError, match=r"mask|Couplings|event dimension"):
        coupling = fb.AffineCoupling(Net(1, 2, 0, tf.float32, 0), masks[kind], swap=swap)
        coupling.forward(tf.zeros([2, *event]))


@drawing(60)
@given(
    size=st.integers(1, 5),
    order=st.one_of(
        st.lists(st.integers(-2, 6), max_size=6),
        st.lists(st.floats(0.0, 4.0), max_size=5),
        st.text(max_size=8),
    ),
)
def test_orders_that_are_not_permutations(size, order):
    assume(order not in ("sequential", "reverse", "random"))
    assume(isinstance(order, str) or sorted(order) != list(range(size)))
    with pytest.raises(ValueError, match="permutation"):
        made(size, 2, (3,), order)


@drawing(10)
@given(seed=st.tuples(SEEDS, SEEDS), shape=BATCHES, start=SEEDS)
def test_seeds(seed, shape, start):
    """A seed determines samples, and the initial values of a layer."""

    def make():
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 3)
        turned = [fb.Householder(3, seed=start), fb.Invertible1x1Conv(3, start)]
        return flows.distributions.Flow(base, fb.Chain([*turned, fb.Planar(3, seed=start)]))

    first, second = make(), make()
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    drawn = first.sample(shape, seed=seed)
    assert drawn.shape == [*shape, 3]
    np.testing.assert_array_equal(drawn, second.sample(shape, seed=seed))
    if 0 not in shape:
        moved_on = (seed[0], seed[1] ^ 1)
        assert not np.array_equal(drawn, first.sample(shape, seed=moved_on))
