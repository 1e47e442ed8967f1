"""A poisoned batch does no harm to a training, and layers that fail a check are named."""

import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from test_families import CONTEXTS, FAMILIES, IMAGES
from test_families import ROWS as VECTORS

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.callbacks.measures import measure_layers
from tfp_flows.core import variable_paths
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model.guard import Guard

tfb, tfd = tfp.bijectors, tfp.distributions

RANDOM = np.random.RandomState(0)
ROWS = (RANDOM.normal(size=(256, 4)) @ RANDOM.normal(size=(4, 4))).astype(np.float32)
PROBE = ROWS[:50]
PIXELS = RANDOM.randint(0, 8, size=(32, 4, 4, 1))


def compiled(flow, rate=3e-3):
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.Adam(rate))
    return model


def small(name="real_nvp"):
    return getattr(flows, name)((4,), layers=3, hidden=(8,))


def state_of(model):
    return [v.numpy() for v in (*model.flow.variables, *model.optimizer.variables)]


def poisoned(bad):
    """Eight batches, one of which has one bad entry."""
    x = ROWS.copy()
    x[70, 1] = bad
    return x.reshape([8, 32, 4])


SLOW = (pytest.param(name, marks=pytest.mark.slow) for name in ("real_nvp", "neural_spline"))


@pytest.mark.parametrize("name", ["nice", *SLOW])
def test_a_poisoned_batch_does_no_harm(name):
    model = compiled(small(name))
    model.fit(ROWS, batch_size=32, epochs=2, verbose=0)
    start = model.evaluate(ROWS, verbose=0, return_dict=True)["loss"]
    largest = max(np.abs(v).max() for v in state_of(model))

    def fit_a_generator(bad):
        model.fit(((x,) for x in poisoned(bad)), steps_per_epoch=8, verbose=0)

    def fit_an_array(bad):
        model.fit(np.concatenate(poisoned(bad)), batch_size=32, shuffle=False, verbose=0)

    def fit_a_data_set(bad):
        model.fit(tf.data.Dataset.from_tensor_slices(poisoned(bad)), verbose=0)

    def fit_weights(bad):
        weights = np.ones([8, 32], np.float32)
        weights[2, 3] = bad
        parts = (ROWS.reshape([8, 32, 4]), np.zeros([8, 32]), weights)
        model.fit(tf.data.Dataset.from_tensor_slices(parts), verbose=0)

    def train_on_a_batch(bad):
        model.train_on_batch(poisoned(bad)[2])

    for fit, bad in [
        *((fit_a_generator, bad) for bad in (np.nan, -np.inf, 1e30, 1e18, 1e10)),
        *((fit, bad) for fit in (fit_an_array, fit_a_data_set) for bad in (1e30, 1e10)),
        *((fit_weights, bad) for bad in (1e30, 1e10)),
        *((train_on_a_batch, bad) for bad in (1e30, 1e10)),
    ]:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                fit(bad)
                said = " ".join(str(w.message) for w in warned)
            except ValueError as error:
                said = str(error)
        assert "1 batch(es) gave gradients" in said, (fit, bad, said)
        values = state_of(model)
        assert all(np.isfinite(v).all() for v in values), (fit, bad)
        # It shows in no state, not even in Adam's second moments.
        assert max(np.abs(v).max() for v in values) < 10 * largest + 200, (fit, bad)
    model.fit(ROWS, batch_size=32, epochs=3, verbose=0)
    assert model.evaluate(ROWS, verbose=0, return_dict=True)["loss"] < start - 0.1


def test_bad_data_are_refused():
    model = compiled(small())
    flows.initialize(model.flow, ROWS)
    before = state_of(model)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 of 256 rows hold NaN"):
            model.fit(np.concatenate(poisoned(bad)), verbose=0)
        with pytest.raises(ValueError, match="1 of 32 rows hold NaN"):
            model.train_on_batch(poisoned(bad)[2])
    for one, two in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(tf.errors.InvalidArgumentError, match="hold NaN"):
        model.fit(tf.data.Dataset.from_tensor_slices(poisoned(np.nan)), verbose=0)
    assert all(np.isfinite(v).all() for v in state_of(model))
    model.fit(ROWS, verbose=0)


def test_pixels_out_of_range():
    model = compiled(flows.Dequantized(flows.glow((4, 4, 1), 1, 1, 4), levels=8))
    model.fit(PIXELS, verbose=0)
    start = model.evaluate(PIXELS, verbose=0, return_dict=True)["loss"]
    for bad in (8, -1, 2**30):
        x = PIXELS.copy()
        x[3, 0, 0] = bad
        for train in (model.fit, model.train_on_batch):
            with pytest.raises(ValueError, match="Invalid: 1 of 512"):
                train(x)
        with pytest.raises(tf.errors.InvalidArgumentError, match="takes whole pixels"):
            model.fit(tf.data.Dataset.from_tensors(x), verbose=0)
    if not IS_LEGACY:  # whose generators do not know the shape of an image
        with pytest.raises(tf.errors.InvalidArgumentError, match="takes whole pixels"):
            model.fit(((x,) for _ in range(1)), steps_per_epoch=1, verbose=0)
    assert all(np.isfinite(v).all() for v in state_of(model))
    model.fit(PIXELS, epochs=20, verbose=0)
    assert model.evaluate(PIXELS, verbose=0, return_dict=True)["loss"] < start


class Gradients:
    """A guard, and whether it skips gradients of given norms."""

    def __init__(self, guard):
        self._guard = guard

    def skips(self, norm, dtype=tf.float32):
        (gradient,), counts = self._guard([tf.constant([norm], dtype)])
        skipped = self._guard.take()
        out = sum(skipped)
        assert bool(counts) == (skipped.outliers == 0)  # what diverges shows in the loss
        assert float(gradient[0]) == (0.0 if out else np.float32(norm))
        return bool(out)


def test_which_batches_are_skipped():
    seen = Gradients(Guard())
    assert seen.skips(np.nan) and seen.skips(1e20)  # the square overflows
    assert not seen.skips(0.0)  # a batch of weight 0 is no measure
    assert not seen.skips(30.0)
    assert not seen.skips(2e4)
    assert seen.skips(1e6) and not seen.skips(30.0)

    for _ in range(300):  # a training that is nearly done
        assert not seen.skips(1e-6)
    assert not seen.skips(900.0)

    rare = Gradients(Guard())
    for step in range(600):  # outliers in every 20th batch stay outliers
        outlier = step % 20 == 19
        assert rare.skips(1e6 if outlier else 1.0) == outlier

    lasting = Gradients(Guard())
    lasting.skips(1.0)
    out = [lasting.skips(1e5) for _ in range(100)]  # a steep place, say: what stays is usual
    assert out == [True] * 10 + [False] * 90


def test_guard_knows_missing_gradients():
    given = [
        tf.constant([1.0]),
        None,
        tf.IndexedSlices(tf.constant([[2.0]]), tf.constant([1]), tf.constant([3, 1])),
    ]
    kept, _ = Guard()(given)
    assert kept[1] is None
    np.testing.assert_array_equal(tf.convert_to_tensor(kept[2]), [[0.0], [2.0], [0.0]])


class Plant(keras.callbacks.Callback):
    """Puts a value into a variable at the end of an epoch."""

    def __init__(self, path, index, value, epoch=0):
        super().__init__()
        self.fault, self.at = (path, index, value), epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.at:
            path, index, value = self.fault
            variable = variable_paths(self.model.flow)[path]
            changed = variable.numpy()
            changed[index] = value
            variable.assign(changed)


FAULTS = [  # of a real_nvp: two layers as a step of ActNorm, coupling, ActNorm, coupling; one more
    (
        ("bijector.bijectors.0.bijectors.1.conditioner.3.bias", (0, slice(2, 4)), 50.0),
        "layer bijector.bijectors.0.bijectors.1[0] (AffineCoupling): saturation is 1,",
    ),
    (
        ("bijector.bijectors.0.bijectors.2.log_scale", (0,), 11.0),
        "layer bijector.bijectors.0.bijectors.2[0] (ActNorm): log_det is -11,",
    ),
    (
        ("bijector.bijectors.0.bijectors.0.shift", (0, 2), 1e6),
        "layer bijector.bijectors.0.bijectors.0[0] (ActNorm): round_trip is ",
    ),
    (
        ("bijector.bijectors.1.log_scale", slice(None), -90.0),
        "layer bijector.bijectors.1 (ActNorm): not_finite is 50,",
    ),
    (  # which ReLU may hide
        ("bijector.bijectors.0.bijectors.3.conditioner.0.kernel", (0, 1, 2), np.nan),
        "variable bijector.bijectors.0.bijectors.3.conditioner.0.kernel is not finite",
    ),
]


def test_the_layer_that_fails_a_check_is_named_and_rolled_back():
    model = compiled(small())
    model.fit(ROWS, verbose=0)
    for planted, fault in FAULTS:
        health = flows.FlowHealth(PROBE, action="roll_back", factor=1.0)
        before = []
        plant = Plant(*planted)
        note = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: before.extend(state_of(model))  # noqa: B023
        )
        with pytest.warns(UserWarning, match="last check that passed are restored"):
            model.fit(ROWS, verbose=0, callbacks=[plant, note, health])
        assert fault in health.message
        for one, two in zip(before, state_of(model), strict=True):
            np.testing.assert_array_equal(one, two)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(ROWS, verbose=0, callbacks=[flows.FlowHealth(PROBE)])


def test_levels_matrices_and_pixels():
    flow = flows.Dequantized(flows.glow((4, 4, 1), 2, 2, 4, context_shape=(3,)), levels=8)
    model = compiled(flow)
    context = RANDOM.normal(size=(32, 3)).astype(np.float32)
    layer = "flow.bijector.scales.1.bijectors.1.bijectors.1"
    health = flows.FlowHealth(PIXELS[:20], context[:20], action="warn")
    plant = Plant(f"{layer}.log_diagonal", (1, 3), -12.0, epoch=1)
    with pytest.warns(UserWarning, match=r"bijectors\.1\[1\] \(Invertible1x1Conv\): condition is"):
        model.fit((PIXELS, context), epochs=2, verbose=0, callbacks=[plant, health])
    assert [r["fault"] is None for r in health.history] == [True, True, False]
    layers = [record["layer"] for record in health.history[0]["layers"]]
    assert len(set(layers)) == 16 and layers[0].startswith("flow.bijector.scales.0")
    starts = tuple(name.split("[")[0] + "." for name in layers)
    assert {p for p in variable_paths(flow) if not p.startswith(starts)} == {
        f"flow.standardize_context.{name}" for name in ("initialized", "location", "scale")
    }
    with pytest.raises(TypeError, match="conditional"):
        model.fit((PIXELS, context), verbose=0, callbacks=[flows.FlowHealth(PIXELS)])


def test_bijectors_of_tfp():
    scale = tf.Variable(1.0)
    chain = tfb.Chain([tfb.Exp(), fb.ActNorm(4), tfb.Chain([tfb.Scale(scale), tfb.Shift(1.0)])])
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 4), chain)
    x = np.exp(0.1 * ROWS)
    health = flows.FlowHealth(x[:50], action="stop")
    model = compiled(flow)

    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            scale.assign(1e-30)

    with pytest.warns(UserWarning, match=r"bijector\.bijectors\.2 \(.*Training stops"):
        history = model.fit(x, epochs=3, verbose=0, callbacks=[Break(), health])
    assert history.epoch == [0] and "log_det is 69.1" in health.message
    assert [r["type"] for r in health.history[0]["layers"]] == ["Exp", "ActNorm", "Chain"]
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.Variable([0.0, 0.1])),
        tfd.MultivariateNormalDiag(tf.Variable(tf.random.normal([2, 4]))),
    )
    with pytest.raises(TypeError, match="no bijector"):
        compiled(mixture).fit(ROWS, verbose=0, callbacks=[flows.FlowHealth(PROBE)])


def test_actions_are_limited():
    model = compiled(small(), rate=1e-3)
    model.fit(ROWS, verbose=0)
    weights = [v.numpy() for v in model.flow.variables]
    shift = variable_paths(model.flow)["bijector.bijectors.1.log_scale"]

    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            shift.assign([40.0] * 4)

    health = flows.FlowHealth(PROBE, action="roll_back", max_actions=2)
    with (
        pytest.warns(UserWarning),
        pytest.raises(RuntimeError, match="'roll_back' was taken 2"),
    ):
        model.fit(ROWS, epochs=9, verbose=0, callbacks=[Break(), health])
    assert [r["action"] for r in health.history] == [None, "roll_back", "roll_back", None]
    np.testing.assert_allclose(model.optimizer.learning_rate, 1e-3 / 4)
    for value, variable in zip(weights, model.flow.variables, strict=True):
        np.testing.assert_array_equal(value, variable)

    health = flows.FlowHealth(PROBE, action="lower_rate", factor=0.1, max_actions=2)
    with (
        pytest.warns(UserWarning),
        pytest.raises(RuntimeError, match="'lower_rate' was taken 2"),
    ):
        model.fit(ROWS, epochs=9, verbose=0, callbacks=[Break(), health])
    np.testing.assert_allclose(model.optimizer.learning_rate, 1e-3 / 400, rtol=1e-6)
    np.testing.assert_array_equal(shift, 40.0)
    with pytest.raises(ValueError, match="This was so before training began"):
        model.fit(ROWS, verbose=0, callbacks=[flows.FlowHealth(PROBE, action="roll_back")])


def test_schedules_cannot_be_lowered():
    model = flows.FlowModel(small())
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 100)))
    for action in ("roll_back", "lower_rate"):
        with pytest.raises(ValueError, match="follows a CosineDecay"):
            model.fit(ROWS, verbose=0, callbacks=[flows.FlowHealth(PROBE, action=action)])
    plant = Plant("bijector.bijectors.1.log_scale", (0,), 99.0)
    health = flows.FlowHealth(PROBE, action="roll_back", factor=1)
    with pytest.warns(UserWarning, match="are restored"):
        model.fit(ROWS, epochs=2, verbose=0, callbacks=[plant, health])
    assert [r["fault"] is None for r in health.history] == [True, False, True]
    assert health.history[-1]["learning_rate"] < 1e-3


def test_skipped_batches_fail_a_check():
    model = compiled(small())
    flows.initialize(model.flow, ROWS)

    def fit(health):
        batches = ((x,) for _ in range(2) for x in poisoned(np.nan))
        return model.fit(
            batches, steps_per_epoch=8, epochs=2, shuffle=False, verbose=0, callbacks=[health]
        )

    health = flows.FlowHealth(PROBE, action="warn")
    with pytest.warns(UserWarning, match=r"1 batch\(es\) skipped"):
        history = fit(health)
    assert history.epoch == [0, 1]
    assert np.isfinite(history.history["loss"]).all()  # of the batches that count
    assert [r["skipped"] for r in health.history] == [0, 1, 1]
    with pytest.warns(UserWarning, match="Training stops"):
        assert fit(flows.FlowHealth(PROBE)).epoch == [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(flows.FlowHealth(PROBE, skipped=None)).epoch == [0, 1]
    with pytest.warns(UserWarning, match="1 of them hold NaN or infinity in the data"):
        assert fit(keras.callbacks.TerminateOnNaN()).epoch == [0]


def test_the_loss_of_skipped_batches_is_nan():
    model = compiled(small())
    flows.initialize(model.flow, ROWS)
    nothing = ((np.full([32, 4], np.inf, np.float32),) for _ in range(2))
    with pytest.warns(UserWarning, match=r"2 batch\(es\) skipped"):
        history = model.fit(
            nothing, steps_per_epoch=2, verbose=0, callbacks=[flows.FlowHealth(PROBE)]
        )
    assert np.isnan(history.history["loss"]).all()


def test_checks_between_batches():
    model = compiled(small())
    health = flows.FlowHealth(PROBE, verbose=1)
    model.fit(ROWS, batch_size=16, epochs=2, verbose=0, callbacks=[health])
    assert [r["step"] for r in health.history] == [0, 16, 32]
    if not IS_LEGACY:
        assert model.steps_per_execution == 10  # it does not slow the training down
    health = flows.FlowHealth(PROBE, every=6)
    model.fit(ROWS, batch_size=16, epochs=2, verbose=0, callbacks=[health])
    assert [r["step"] - 32 for r in health.history] == [0, 6, 12, 16, 22, 28, 32]
    assert [r["epoch"] for r in health.history] == [0, 1, 1, 1, 2, 2, 2]
    model.compile("adam", steps_per_execution=4)
    health = flows.FlowHealth(PROBE, every=6)
    model.fit(ROWS, batch_size=16, verbose=0, callbacks=[health])
    assert [r["step"] for r in health.history] == [0, 8, 16, 16]


def test_history_and_picture(tmp_path, monkeypatch):
    model = compiled(flows.neural_spline((4,), 2, hidden=(4,), bins=4))
    health = flows.FlowHealth(PROBE, action="warn")
    with pytest.raises(RuntimeError, match="Nothing to plot"):
        health.plot(tmp_path / "none.png")
    plant = Plant("bijector.bijectors.0.bijectors.0.shift", (0, 1), np.nan)
    with pytest.warns(UserWarning, match="actnorm|shift is not finite"):
        model.fit(ROWS, epochs=2, verbose=0, callbacks=[plant, health])
    assert json.loads(json.dumps(health.history, allow_nan=False)) == health.history
    record = health.history[0]
    assert set(record) == {
        *(
            "epoch",
            "step",
            "loss",
            "learning_rate",
            "skipped",
            "not_finite",
            "fault",
            "action",
            "layers",
        )
    }
    measures = {"not_finite", "round_trip", "log_det_min", "log_det_max"}
    for layer in record["layers"]:
        extra = {"condition"} if layer["type"] == "Invertible1x1Conv" else set()
        assert set(layer) == {"layer", "type"} | measures | extra
        assert layer["round_trip"] < 1e-5 and layer.get("condition", 1.0) < 1.001
    assert health.history[-1]["layers"][0]["round_trip"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of a layout that does not fit
        health.plot(tmp_path / "health.png")
    written = (tmp_path / "health.png").read_bytes()
    assert written.startswith(b"\x89PNG") and len(written) > 20_000
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"\.\[examples\]"):
        health.plot(tmp_path / "more.png")


def test_a_layer_whose_own_checks_fail():
    norm = fb.ActNorm(4)
    chain = fb.Chain([norm, tfb.Exp(validate_args=True), tfb.Scale(2.0)])
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 4), chain)
    assert [layer["not_finite"] for layer in measure_layers(flow, np.exp(ROWS))] == [0, 0, 0]
    norm.shift.assign([0.0, 0.0, 99.0, 0.0])  # which leaves nothing to take the logarithm of
    last = measure_layers(flow, np.exp(ROWS))[-1]
    assert last == {"layer": "bijector.bijectors.1", "type": "Exp", "not_finite": 256}


def test_a_layer_of_a_step_whose_own_checks_fail():
    repeat = fb.Repeat(fb.Chain([fb.ActNorm(4), tfb.Exp(validate_args=True)]), 2)
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 4), repeat)
    x = np.exp(np.exp(0.1 * ROWS))
    assert [layer["not_finite"] for layer in measure_layers(flow, x)] == [0] * 4
    repeat._stack.variables_by_path["bijectors.0.shift"][1, 2].assign(99.0)
    own = [v.numpy() for v in repeat.bijector.variables]
    last = measure_layers(flow, x)[-1]
    assert last == {"layer": "bijector.bijectors.1[1]", "type": "Exp", "not_finite": 256}
    for value, variable in zip(own, repeat.bijector.variables, strict=True):
        np.testing.assert_array_equal(value, variable)


class Doubling(fb.ActNorm):
    """A layer of a user's own, which says what to measure of it."""

    def diagnostics(self, y, context=None):
        return {"saturation": tf.constant(0.7), "mean": tf.reduce_mean(y)}


def test_a_layer_says_what_to_measure():
    inner = fb.Repeat(fb.Chain([fb.QRLinear(4), Doubling(4)]), 2)
    chain = fb.Chain([fb.Repeat(inner, 3), fb.Householder(4)])
    model = compiled(tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 4), chain))
    health = flows.FlowHealth(PROBE, action="warn")
    with pytest.warns(UserWarning, match=r"\[0\]\[0\] \(Doubling\): saturation is 0.7"):
        model.fit(ROWS, verbose=0, callbacks=[health])
    layers = health.history[0]["layers"]
    start = "bijector.bijectors.0.bijectors"
    assert [layer["layer"] for layer in layers] == [
        *(f"{start}.{part}[{i}][{j}]" for i in range(3) for j in range(2) for part in range(2)),
        "bijector.bijectors.1",
    ]
    assert {"condition", "saturation"} & set(layers[0]) == {"condition"}
    np.testing.assert_allclose(layers[-1]["condition"], 1.0, rtol=1e-5)
    assert np.isfinite(layers[1]["mean"])


def test_a_resumed_epoch_reports_what_it_skipped_before():
    model = compiled(small())
    flows.initialize(model.flow, ROWS)
    model.training_state.guard.count(tf.constant(False), None)
    health = flows.FlowHealth(PROBE, action="roll_back", factor=1.0)
    health.set_model(model)
    health.on_train_begin()
    health.on_epoch_begin(0)
    with pytest.warns(UserWarning, match=r"1 batch\(es\) skipped"):
        health.on_epoch_end(0, {"loss": 1.0})
    assert [record["skipped"] for record in health.history] == [0, 1]


def test_what_a_snapshot_restores():
    model = compiled(small())
    model.fit(ROWS, batch_size=32, verbose=0)
    state = model.training_state
    before = {name: v.numpy() for name, v in state.variables_by_name().items()}
    assert {name.split(".")[0] for name in before} == {"flow", "optimizer", "progress", "guard"}
    assert {name for name in before if name.startswith("flow.")} == {
        f"flow.{path}" for path in variable_paths(model.flow)
    }
    snapshot = state.snapshot()
    for variable in state.variables_by_name().values():
        if variable.dtype != tf.bool:
            variable.assign(variable + tf.ones([], variable.dtype))
    snapshot.restore()
    changed = {
        name
        for name, variable in state.variables_by_name().items()
        if not np.array_equal(before[name], variable)
    }
    assert changed == {"optimizer.learning_rate", "progress.counters"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_no_false_alarms(name):
    flow = FAMILIES[name](2)
    x = IMAGES if len(flow.event_shape) == 3 else VECTORS
    model = compiled(flow, rate=1e-2)
    health = flows.FlowHealth(x[:32], CONTEXTS[:32], action="warn")
    model.fit((x, CONTEXTS), epochs=8, batch_size=32, verbose=0, callbacks=[health])
    assert [record["fault"] for record in health.history] == [None] * 9
    assert all(layer["round_trip"] < 1e-4 for layer in health.history[-1]["layers"])


def test_arguments():
    for wrong, message in [
        ({"action": "pray"}, "action must be one of"),
        ({"every": 0}, "every must be"),
        ({"every": "batch"}, "every must be"),
        ({"factor": 0.0}, "factor must be over 0"),
        ({"max_actions": 0}, "max_actions must be 1 or more"),
    ]:
        with pytest.raises(ValueError, match=message):
            flows.FlowHealth(PROBE, **wrong)
    model = compiled(small())
    with pytest.raises(ValueError, match="events of shape"):
        model.fit(ROWS, verbose=0, callbacks=[flows.FlowHealth(PROBE[:, :2])])
    with pytest.raises(ValueError, match="NaN"):
        model.fit(ROWS, verbose=0, callbacks=[flows.FlowHealth(PROBE * np.nan)])
