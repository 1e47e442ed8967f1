"""Contexts are standardised by those seen first: training does not depend on their units."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small_flows import READY_MADE, small

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import keras

tfd = tfp.distributions

RANDOM = np.random.RandomState(0)
C = RANDOM.normal(size=(320, 1)).astype(np.float32)
X = (2.0 * C + 0.3 * RANDOM.normal(size=(320, 1))).astype(np.float32)
PAIRS = np.concatenate([X, X + RANDOM.normal(size=X.shape).astype(np.float32)], 1)


def trained(make, x, context, epochs=2):
    keras.utils.set_random_seed(0)
    model = flows.FlowModel(make())
    model.compile(keras.optimizers.Adam(1e-2))
    losses = model.fit((x, context), epochs=epochs, batch_size=64, verbose=0).history["loss"]
    return losses[-1], model


MAKES = {
    "maf": (lambda: flows.maf((1,), 2, (8,), context_shape=(1,)), X),
    "planar": (lambda: flows.planar((2,), 2, (8,), context_shape=(1,), seed=0), PAIRS),
    "real_nvp": (lambda: flows.real_nvp((2,), 2, (8,), context_shape=(1,)), PAIRS),
    "no-actnorm": (lambda: small(context_shape=(1,)), PAIRS),
    "encoder": (
        lambda: Flow(
            tfd.Sample(tfd.Normal(0.0, 1.0), 2),
            fb.Chain([fb.ActNorm(2), fb.AffineCoupling(mlp(1, 2, (8,), context=3))]),
            (1,),
            mlp(1, 3, (4,)),
            standardize_context=True,
        ),
        PAIRS,
    ),
}


UNITS = {"small": 1e-3 * C, "large": 1e4 * C, "offset": C + 1000.0, "tiny": 1e-30 * C}


@pytest.mark.parametrize("name", ["real_nvp", "encoder"])
def test_gradients_do_not_depend_on_the_units_of_contexts(name):
    make, x = MAKES[name]
    results = []
    for context in (C, *UNITS.values()):
        keras.utils.set_random_seed(0)
        flow = make()
        flows.initialize(flow, x, context=context)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(flow.log_prob(x, context=context.astype(np.float32)))
        results.append([loss, *tape.gradient(loss, flow.trainable_variables)])
    for result in results[1:]:  # c + 1000 is rounded to 6e-5 of its spread, the others to 1e-7
        for found, expected in zip(result, results[0], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKES)
def test_training_does_not_depend_on_the_units_of_contexts(name):
    make, x = MAKES[name]
    expected, _ = trained(make, x, C)
    for context in UNITS.values():
        loss, _ = trained(make, x, context.astype(np.float32))
        assert loss == pytest.approx(expected, abs=2e-3)


def test_the_context_is_learned():
    _, model = trained(MAKES["maf"][0], X, 1e4 + 1e-2 * C, epochs=8)
    truth = 0.5 * np.log(2 * np.pi * np.e * 0.09)
    # float32 has a step of 1e-3 there, a tenth of the spread: it blurs what x follows from.
    loss = model.evaluate((X, (1e4 + 1e-2 * C).astype(np.float32)), verbose=0, return_dict=True)
    assert loss["loss"] < truth + 0.3


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64], ids=lambda t: t.name)
def test_the_constants(dtype):
    flow = flows.real_nvp((2,), 2, (4,), context_shape=(3,), dtype=dtype)
    context = np.stack([C[:, 0] * 5.0 + 7.0, np.full(320, 1e4), np.zeros(320)], 1)
    flows.initialize(flow, tf.cast(PAIRS, dtype), context=context.astype(dtype.as_numpy_dtype))
    features = flow.encode_context(context).numpy()
    np.testing.assert_allclose(features.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(features.std(0), [1.0, 0.0, 0.0], atol=1e-5)
    # What was constant moves by its relative distance; from 0, by itself.
    moved = flow.encode_context([[7.0, 1.1e4, 2.0]])
    np.testing.assert_allclose(moved[0, 1:], [0.1, 2.0], rtol=1e-3)
    assert all(v.dtype == dtype for v in flow.context_standardizer.variables if v.dtype.is_floating)
    assert not {id(v) for v in flow.context_standardizer.variables} & {
        id(v) for v in flow.trainable_variables
    }


def test_rounding_does_not_count_as_spread():
    flow = small(context_shape=(2,))
    context = np.tile(np.float32([[0.3, 1.0]]), [64, 1])
    context[::2, 0] = np.nextafter(np.float32(0.3), np.float32(1.0))
    context[::3, 1] = 2.0
    flows.initialize(flow, PAIRS[:64], context=context)
    assert abs(float(flow.encode_context([0.6, 1.0])[0]) - 1.0) < 1e-5


def test_set_once_and_shared_by_copies():
    flow = small(context_shape=(1,))
    flows.initialize(flow, PAIRS, context=C)
    held = flow.encode_context(C)
    flows.initialize(flow, PAIRS, context=100.0 * C)
    np.testing.assert_array_equal(flow.encode_context(C), held)
    copy = flow.copy(name="copy")
    np.testing.assert_array_equal(copy.encode_context(C), held)
    plain = flow.copy(standardize_context=False)
    np.testing.assert_array_equal(plain.encode_context(C), C)


def test_a_flow_trained_elsewhere_keeps_its_contexts():
    flow = flows.real_nvp((2,), 2, (4,), context_shape=(1,))
    for variable in flow.trainable_variables:  # as a loop of one's own does
        variable.assign_add(0.1 * tf.ones_like(variable))
    before = flow.log_prob(PAIRS, context=C)
    flows.initialize(flow, PAIRS, context=1e4 * C)
    np.testing.assert_array_equal(flow.log_prob(PAIRS, context=C), before)
    marked = small(context_shape=(1,))
    flows.mark_initialized(marked)
    flows.initialize(marked, PAIRS, context=1e4 * C)
    np.testing.assert_array_equal(marked.encode_context(C), C)


@pytest.mark.parametrize("name", READY_MADE)
def test_every_ready_made_flow_has_the_switch(name):
    flow = READY_MADE[name](context_shape=(3,))
    assert flow.context_standardizer.needs_initialization
    off = READY_MADE[name](context_shape=(3,), standardize_context=False)
    assert off.context_standardizer is None and off.parameters["standardize_context"] is False
    assert READY_MADE[name]().context_standardizer is None


def test_labels_and_encoders_get_unchanged_contexts():
    vectors = flows.real_nvp((2,), 2, (4,), context_shape=(3,))
    labelled = flows.with_labels(vectors, classes=5)
    assert labelled.context_standardizer is None
    labels = np.arange(64) % 5
    flows.initialize(labelled, PAIRS[:64], context=labels)
    np.testing.assert_array_equal(
        labelled.encode_context(4), labelled.context_encoder.net(np.array([4]))[0]
    )
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    coupling = fb.AffineCoupling(mlp(1, 2, context=2))
    doubled = Flow(base, coupling, (2,), lambda c: 2.0 * c)
    assert doubled.context_standardizer is None
    np.testing.assert_array_equal(doubled.encode_context([[3.0, 4.0]]), [[6.0, 8.0]])
    # With the switch on, a series is standardised channel by channel, the same at every place.
    series = Flow(base, coupling, (5, 2), lambda c: c[:, 0], standardize_context=True)
    values = RANDOM.normal(size=(64, 5, 2)).astype(np.float32) * [1.0, 1e3] + [0.0, 1e4]
    series.initialize_context(values)
    expected = (values - values.mean((0, 1))) / values.std((0, 1))
    np.testing.assert_allclose(series.encode_context(values), expected[:, 0], atol=1e-3)


def test_one_number_as_context():
    flow = Flow(
        tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.AffineCoupling(mlp(1, 2, (4,), context=1)), ()
    )
    flows.initialize(flow, PAIRS, context=1e4 + C[:, 0])
    assert flow.encode_context(1e4).shape == (1,)
    assert abs(float(flow.encode_context(1e4)[0])) < 0.2
    assert flow.log_prob(PAIRS, context=1e4 + C[:, 0]).shape == (320,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_contexts_that_are_not_finite_are_named(bad):
    flow = small(context_shape=(1,))
    context = C.astype(np.float64)
    context[3] = bad
    with pytest.raises(ValueError, match=r"1 of 320 contexts hold NaN.*Look at the context"):
        flows.initialize(flow, PAIRS, context=context)
    assert flow.context_standardizer.needs_initialization
    model = flows.FlowModel(flow)
    model.compile()
    with pytest.raises(ValueError, match="1 of 320 contexts hold NaN"):
        model.fit((PAIRS, context), verbose=0)
    flows.initialize(flow, PAIRS, context=C)
    with pytest.raises(ValueError, match="1 of 320 contexts"):
        model.log_prob(PAIRS, context=context)
    data = tf.data.Dataset.from_tensor_slices((PAIRS, context)).batch(320)
    with pytest.raises(tf.errors.InvalidArgumentError, match="contexts of a batch that hold NaN"):
        model.fit(data, verbose=0)


def stamps(n):
    return 1.7e9 + np.arange(n, dtype=np.float64)[:, None]


@pytest.mark.parametrize(
    "make, context, message",
    [
        (lambda: small((1,)), C[0], "all examples have the same context"),
        (lambda: small((1,)), np.ones_like(C), "all examples have the same context"),
        (lambda: small((1,)), stamps(32), "entry 0 .* differs between examples as float64"),
        (
            lambda: Flow(
                tfd.Sample(tfd.Normal(0.0, 1.0), 2),
                fb.Chain([fb.ActNorm(2), fb.AffineCoupling(mlp(1, 2, context=1))]),
                (1,),
                lambda c: c,
            ),
            1e4 * C,
            "standardize_context=True, or with False",
        ),
    ],
    ids=["one", "equal", "lost digits", "encoder"],
)
def test_warnings_about_units(make, context, message):
    x = PAIRS[:32]
    context = context if context.ndim == 1 else context[:32]
    with pytest.warns(UserWarning, match=message):
        flows.initialize(make(), x, context=context)


def test_usual_contexts_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flows.initialize(small((1,)), PAIRS, context=C + 1000.0)


def test_dequantized():
    noise = flows.dequantizer((2,), 2, 4)
    flow = flows.real_nvp((2,), 2, (4,), context_shape=(1,))
    pixels = flows.Dequantized(flow, 8, dequantizer=noise)
    x = RANDOM.randint(8, size=(64, 2))
    assert noise.context_standardizer is None  # images in [-1/2, 1/2] have known units
    flows.initialize(pixels, x, context=1e4 * C[:64])
    assert abs(float(flow.encode_context([1e4])[0])) < 5.0
    given = pixels.condition(1e4 * C[:64])
    assert given.log_prob(x, seed=[0, 1]).shape == (64,)
    assert np.isfinite(given.log_prob(x, seed=[0, 1])).all()
    again = pixels.log_prob(x, seed=[0, 1], context=1e4 * C[:64])
    np.testing.assert_allclose(given.log_prob(x, seed=[0, 1]), again, rtol=1e-5)


def test_files_and_serving_keep_the_constants(tmp_path):
    context = 1e4 * C + 1e5
    _, model = trained(MAKES["real_nvp"][0], PAIRS, context, epochs=1)
    expected = model.log_prob(PAIRS, context=context)
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(loaded.log_prob(PAIRS, context=context), expected, atol=1e-5)
    model.save_weights(tmp_path / "flow.weights.h5")
    other = flows.FlowModel(MAKES["real_nvp"][0]())
    other.load_weights(tmp_path / "flow.weights.h5")
    np.testing.assert_allclose(other.log_prob(PAIRS, context=context), expected, atol=1e-5)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["log_prob"]
    found = served(x=tf.constant(PAIRS), context=tf.constant(context))["log_prob"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
