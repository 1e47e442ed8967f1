"""What is special to each family, and what bad input gets."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import conv, mlp

tfb = tfp.bijectors


def transformed_entries(mask, event_shape, swap=False):
    """Which entries of an event a coupling transforms."""

    for width in range(1, event_shape[-1] + 1):
        net = lambda a, width=width: tf.ones([*a.shape[:-1], width])  # noqa: E731
        coupling = fb.AdditiveCoupling(net, mask, swap, event_ndims=len(event_shape))
        try:
            return coupling.forward(tf.zeros([1, *event_shape]))[0].numpy() == 1.0
        except ValueError:
            continue
    raise AssertionError("no width fits")


def test_masks_name_the_transformed_part():
    half = transformed_entries("half", (4,))
    np.testing.assert_array_equal(half, [False, False, True, True])
    np.testing.assert_array_equal(transformed_entries("half", (4,), swap=True), ~half)
    np.testing.assert_array_equal(
        transformed_entries("alternate", (5,)), [False, True, False, True, False]
    )
    board = transformed_entries("checkerboard", (2, 3, 1))[..., 0]
    np.testing.assert_array_equal(board, [[False, True, False], [True, False, True]])
    np.testing.assert_array_equal(
        transformed_entries("checkerboard", (2, 3, 1), swap=True)[..., 0], ~board
    )
    channel = transformed_entries("channel", (2, 2, 4))
    assert channel[..., 2:].all() and not channel[..., :2].any()
    identity = np.array([True, False, False, True, True])
    np.testing.assert_array_equal(transformed_entries(identity, (5,)), ~identity)
    np.testing.assert_array_equal(transformed_entries(identity, (5,), swap=True), identity)


@pytest.mark.parametrize("name", ["exp_tanh", "sigmoid", "clamp", "softplus"])
def test_scale_maps_start_near_one_and_stay_finite(name):
    from tfp_flows.transformers.affine import SCALE_MAPS

    param = tf.constant([0.0, -1e30, 1e30, -50.0, 50.0])
    with tf.GradientTape() as tape:
        tape.watch(param)
        log_scale = SCALE_MAPS[name](param)
    assert abs(float(log_scale[0])) < 0.15
    if name != "sigmoid":  # whose log-scale is unbounded below
        assert np.isfinite(log_scale).all()
    assert np.isfinite(tape.gradient(log_scale, param)).all()


def test_coupling_refuses_masks_and_networks_that_do_not_fit():
    with pytest.raises(ValueError, match="alternate"):
        fb.AffineCoupling(mlp(2, 4)).forward(tf.ones([1, 5]))
    with pytest.raises(ValueError, match=r"must map \(2,\) to \(4,\).*4 units"):
        fb.AffineCoupling(mlp(2, 3)).forward(tf.ones([1, 4]))
    with pytest.raises(ValueError, match="leaves one of them empty"):
        fb.AffineCoupling(mlp(1, 2), mask=np.array([True])).forward(tf.ones([1, 1]))
    with pytest.raises(ValueError, match="mask must be one of"):
        fb.AffineCoupling(mlp(2, 4), mask="quarter")
    with pytest.raises(ValueError, match="boolean array"):
        fb.AffineCoupling(mlp(2, 4), mask=np.array([0, 1]))
    with pytest.raises(ValueError, match=r"mask has shape \(2,\)"):
        fb.AffineCoupling(mlp(2, 4), mask=np.array([False, True])).forward(tf.ones([1, 4]))
    with pytest.raises(ValueError, match="scale_map"):
        fb.AffineCoupling(mlp(2, 4), scale_map="cubic")
    with pytest.raises(TypeError, match="callable"):
        fb.AffineCoupling("net")
    with pytest.raises(ValueError, match="event_ndims of 3"):
        fb.AffineCoupling(mlp(2, 4), mask="channel", event_ndims=1)
    with pytest.raises(TypeError, match=r"int32.*Dequantized"):
        fb.AffineCoupling(mlp(2, 4)).forward(tf.ones([1, 4], tf.int32))
    with pytest.raises(ValueError, match=r"at least 3 event"):
        fb.AffineCoupling(conv((2, 2, 1), 2), mask="channel").forward(tf.ones([2, 2]))


def test_actnorm_normalises_what_it_is_given():
    norm = fb.ActNorm(3)
    y = tf.random.normal([50, 4, 4, 3]) * [0.1, 1.0, 7.0] + [5.0, 0.0, -3.0]
    x = norm.initialize(y)
    np.testing.assert_allclose(tf.reduce_mean(x, [0, 1, 2]), np.zeros(3), atol=1e-4)
    np.testing.assert_allclose(tf.math.reduce_std(x, [0, 1, 2]), np.ones(3), atol=1e-4)
    before = [v.numpy() for v in norm.variables]
    norm.initialize(y + 1.0)  # once only
    for variable, value in zip(norm.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.1, 3.0, 1e30])
def test_actnorm_survives_constant_channels_and_a_batch_of_one(value):
    for batch in (1, 5):
        norm = fb.ActNorm(2)
        y = tf.fill([batch, 2], tf.constant(value))
        x = norm.initialize(y)
        np.testing.assert_allclose(x, np.zeros([batch, 2]), atol=1e-3 * max(1.0, value * 1e-3))
        assert np.isfinite(norm.forward_log_det_jacobian(x))
        np.testing.assert_array_equal(norm.scale, [1.0, 1.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [3, 7, 10])
def test_actnorm_does_not_stretch_rounding(dtype, rows):
    """A constant has no spread, nor has one that rounding moves by a last place in some rows."""
    constant = np.full([rows, 2], 0.1, dtype)
    constant[1, 1] = np.nextafter(constant[1, 1], dtype(1.0))
    norm = fb.ActNorm(2, dtype)
    norm.initialize(constant)
    np.testing.assert_array_equal(norm.scale, [1.0, 1.0])
    spread = np.full([rows, 1], 0.1, dtype)
    spread[::2] *= 1.0 + 10 * np.finfo(dtype).eps  # that is no rounding
    norm = fb.ActNorm(1, dtype)
    np.testing.assert_allclose(np.std(norm.initialize(spread)), 1.0, rtol=1e-3)


@pytest.mark.parametrize(("offset", "deviation"), [(1e4, 1e-2), (0.0, 1e-30), (-3e6, 10.0)])
def test_actnorm_keeps_every_digit(offset, deviation):
    y = (offset + deviation * np.random.RandomState(0).normal(size=(200, 2))).astype("float32")
    exact = y.astype("float64")
    chain = fb.Chain([fb.ActNorm(2), fb.Invertible1x1Conv(2, seed=0)])
    for norm, bijector in ((fb.ActNorm(2),) * 2, (chain.bijectors[0], chain)):
        x = norm.initialize(y)
        np.testing.assert_allclose(x, (exact - exact.mean(0)) / exact.std(0), atol=1e-5)
        # The data come back as they were, to a last place of what is left without the mean.
        back = bijector.forward(tf.identity(bijector.inverse(y)))
        places = np.spacing(np.abs(y)) if offset else deviation * 1e-5
        assert (np.abs(back - y) <= places).all()
        assert (back.numpy() == y).mean() > 0.9 or not offset


@pytest.mark.parametrize(
    "kinds",
    ["an", "na", "ana", "nan", "anan", "aaa", "nnn", "naahn", "hnqna"],
)
def test_folded_channel_maps_are_those_one_by_one(kinds):
    make = {
        "a": lambda i: fb.Invertible1x1Conv(3, seed=i, dtype=tf.float64),
        "h": lambda i: fb.Householder(3, 2, seed=i, dtype=tf.float64),
        "q": lambda i: fb.QRLinear(3, 2, seed=i, dtype=tf.float64),
        "n": lambda i: fb.ActNorm(3, tf.float64),
    }
    parts = [make[kind](i) for i, kind in enumerate(kinds)]
    random = np.random.RandomState(0)
    for part in parts:
        if isinstance(part, fb.ActNorm):
            part.initialize(random.normal(size=(20, 3)) * [0.1, 1.0, 7.0] + [5.0, 0.0, -3.0])
        for variable in part.trainable_variables:
            variable.assign_add(0.3 * random.normal(size=variable.shape))
    chain = fb.Chain(parts)
    x = random.normal(size=(2, 4, 5, 3))
    for method, order in (("forward", parts[::-1]), ("inverse", parts)):
        value, total = tf.constant(x), 0.0
        for part in order:
            total += getattr(part, f"{method}_log_det_jacobian")(value, event_ndims=1)
            value = getattr(part, method)(value)
        for rows, expected in ((x, value), (x[0, 0], value[0, 0])):  # images, and vectors
            np.testing.assert_allclose(getattr(chain, method)(rows), expected, rtol=1e-9)
        log_det = getattr(chain, f"{method}_log_det_jacobian")(x, event_ndims=1)
        np.testing.assert_allclose(log_det, total, rtol=1e-9)


@pytest.mark.parametrize(("offset", "spread"), [(1.7e9, 100.0), (0.0, 1e-13), (1e-3, 1e-9)])
def test_actnorm_sees_small_variation(offset, spread):
    norm = fb.ActNorm(1, tf.float64)
    y = offset + spread * tf.random.normal([500, 1], dtype=tf.float64)
    np.testing.assert_allclose(np.std(norm.initialize(y)), 1.0, rtol=1e-3)


def test_actnorm_refuses_what_is_not_finite_and_stays_as_it_was():
    norm = fb.ActNorm(2)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            norm.initialize(tf.constant([[0.0, bad], [1.0, 2.0]]))
    with pytest.raises(ValueError, match="empty batch"):
        norm.initialize(tf.zeros([0, 2]))
    with pytest.raises(ValueError, match=r"made for \(2,\)"):
        norm.forward(tf.zeros([1, 3]))
    assert norm.needs_initialization
    np.testing.assert_array_equal(norm.shift, [0.0, 0.0])


def test_conv1x1_starts_as_a_rotation():
    conv1x1 = fb.Invertible1x1Conv(6, seed=3)
    weight = conv1x1.inverse(tf.eye(6))
    np.testing.assert_allclose(tf.matmul(weight, weight, transpose_b=True), np.eye(6), atol=1e-5)
    np.testing.assert_allclose(conv1x1.forward_log_det_jacobian(tf.eye(6)), 0.0, atol=1e-5)
    with pytest.raises(ValueError, match=r"made for .6,. in the last"):
        conv1x1.forward(tf.zeros([1, 5]))
    with pytest.raises(ValueError, match="1 or more"):
        fb.Invertible1x1Conv(0)
    with pytest.raises(ValueError, match="all of a convolution's variables or none"):
        fb.Invertible1x1Conv(6, lower=conv1x1.lower)


def test_squeeze_moves_blocks_into_channels():
    image = tf.reshape(tf.range(16, dtype=tf.float32), [1, 4, 4, 1])
    squeezed = fb.Squeeze().inverse(image)
    np.testing.assert_array_equal(squeezed[0, 0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(squeezed, tf.nn.space_to_depth(image, 2))
    with pytest.raises(ValueError, match="5x4 pixels"):
        fb.Squeeze().inverse(tf.zeros([1, 5, 4, 1]))
    with pytest.raises(ValueError, match="6 latent channels"):
        fb.Squeeze().forward(tf.zeros([1, 2, 2, 6]))


def test_multiscale_takes_its_latent_apart():
    flow = fb.MultiScale([fb.Squeeze(), fb.Squeeze(), fb.Squeeze()], (8, 8, 1))
    z = tf.random.normal([2, 3, 64])
    parts = flow.split_latent(z)
    assert [tuple(p.shape[2:]) for p in parts] == flow.latent_shapes
    assert flow.latent_shapes == [(4, 4, 2), (2, 2, 4), (1, 1, 16)]
    np.testing.assert_array_equal(flow.merge_latents(parts), z)
    # What level 0 factors out is half of the squeezed image.
    image = flow.forward(z)
    np.testing.assert_allclose(fb.Squeeze().inverse(image)[..., 2:], parts[0])
    with pytest.raises(ValueError, match="1 channels"):
        fb.MultiScale([tfb.Identity(), tfb.Identity()], (4, 4, 1))
    with pytest.raises(ValueError, match=r"\(8, 8, 1\)"):
        flow.inverse(tf.zeros([1, 8, 4, 1]))
    with pytest.raises(ValueError, match=r"\(64,\)"):
        flow.forward(tf.zeros([1, 60]))


def test_chain_refuses_what_is_not_a_bijection():
    with pytest.raises(TypeError, match="injective"):
        fb.Chain([tfb.AbsoluteValue()])
    with pytest.raises(TypeError, match="injective"):
        fb.Chain([tf.exp])


def test_chain_passes_a_context_on():
    def net(identity, context):
        return tf.concat([identity + context, identity * context], -1)

    inner = fb.Chain([fb.AffineCoupling(net, swap=True)])
    chain = fb.Chain([inner, fb.ActNorm(2), fb.AffineCoupling(net)])
    context = tf.constant([[0.5], [1.5]])
    x = tf.random.normal([2, 2])
    y = chain.forward(x, context=context)
    np.testing.assert_allclose(chain.inverse(tf.identity(y), context=context), x, atol=1e-5)
    assert not np.allclose(y, chain.forward(x, context=2.0 * context))


def test_context_that_does_not_arrive_is_an_error():
    coupling = fb.AffineCoupling(lambda a, c: tf.concat([a, c], -1))
    chain = fb.Chain([tfb.Invert(coupling)])
    with pytest.raises(ValueError, match="does not reach"):
        chain.forward(tf.ones([1, 2]), context=tf.ones([1, 1]))
    x, context = tf.random.normal([2, 3, 2]), tf.random.normal([3, 1])
    one = coupling.forward(x, context=context)
    np.testing.assert_allclose(one[1], coupling.forward(x[1], context=context), rtol=1e-6)


def test_reprs_are_compact():
    chain = fb.Chain([fb.ActNorm(4), fb.AffineCoupling(mlp(2, 4), swap=True)])
    assert (
        repr(chain) == "Chain(ActNorm((4,)), AffineCoupling(half, swap, 'mlp', Affine(exp_tanh)))"
    )
