"""`FlowModel` under Keras; this folder runs under Keras 3 and under tf_keras."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows.keras_engine import IS_LEGACY, keras

tfb, tfd = tfp.bijectors, tfp.distributions

RANDOM = np.random.RandomState(0)
ROWS = (RANDOM.normal(size=(256, 3)) @ RANDOM.normal(size=(3, 3)) + 2.0).astype(np.float32)
PIXELS = RANDOM.binomial(7, 0.3, size=(64, 4, 4, 1))


def vector_flow():
    return flows.real_nvp((3,), layers=2, hidden=(8,))


def pixel_flow():
    return flows.Dequantized(flows.glow((4, 4, 1), 1, 1, 4, dropout=0.1), levels=8)


def mixture():
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.Variable([0.0, 0.1])),
        tfd.MultivariateNormalDiag(
            tf.Variable(tf.random.normal([2, 3])),
            tfp.util.TransformedVariable(tf.ones([2, 3]), tfb.Softplus()),
        ),
    )


def masked_autoregressive():
    network = tfb.AutoregressiveNetwork(params=2, hidden_units=[8], event_shape=[3])
    base = tfd.Sample(tfd.Normal(0.0, 1.0), [3])
    return tfd.TransformedDistribution(base, tfb.MaskedAutoregressiveFlow(network))


DISTRIBUTIONS = {
    "real_nvp": (vector_flow, ROWS),
    "dequantised glow": (pixel_flow, PIXELS),
    "mixture of TFP": (mixture, ROWS),
    "autoregressive of TFP": (masked_autoregressive, ROWS),
}
EVERY = pytest.mark.parametrize(("build", "x"), DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())


def compiled(flow, jit=False, **kwargs):
    model = flows.FlowModel(flow)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=jit, **kwargs)
    return model


@EVERY
def test_fit_trains_every_variable(build, x):
    flow = build()
    model = compiled(flow)
    assert len(model.trainable_variables) == len(flow.trainable_variables)
    model.fit(x, epochs=1, batch_size=32, verbose=0)  # initialises
    before = [v.numpy() for v in flow.trainable_variables]
    first = model.evaluate(x, verbose=0, return_dict=True)["loss"]
    history = model.fit(x, epochs=12, batch_size=32, verbose=0, validation_data=x)
    assert history.history["val_loss"][-1] < first
    moved = [
        not np.array_equal(v, b) for v, b in zip(flow.trainable_variables, before, strict=True)
    ]
    assert all(moved)


@EVERY
def test_evaluate_and_predict_are_the_log_prob(build, x):
    flow = build()
    model = compiled(flow)
    model.fit(x, epochs=1, verbose=0)
    result = model.evaluate(x, batch_size=60, verbose=0, return_dict=True)
    if x is ROWS:
        np.testing.assert_allclose(result["loss"], -np.mean(flow.log_prob(x)), rtol=1e-4)
        np.testing.assert_allclose(model.predict(x, verbose=0), flow.log_prob(x), atol=1e-4)
        np.testing.assert_allclose(model.log_prob(x), flow.log_prob(x), atol=1e-4)
        assert set(result) == {"loss"}
    else:
        np.testing.assert_allclose(
            result["bits_per_dim"], result["loss"] / (16 * math.log(2.0)), rtol=1e-5
        )
        assert set(result) == {"loss", "bits_per_dim"}


def test_every_kind_of_data():
    x = ROWS[:64]
    plain = tf.data.Dataset.from_tensor_slices(x).batch(16)
    labelled = tf.data.Dataset.from_tensor_slices((x, np.zeros(64))).batch(16)
    weighted = tf.data.Dataset.from_tensor_slices((x, np.zeros(64), np.ones(64))).batch(16)
    model = compiled(vector_flow())
    for data in (x, x.astype(np.float64), tf.constant(x), plain, labelled, weighted):
        history = model.fit(data, epochs=1, verbose=0).history
        assert np.isfinite(history["loss"]).all()
    model.fit(x, validation_split=0.25, verbose=0)
    model.fit(plain.repeat(), steps_per_epoch=3, validation_data=labelled, verbose=0)
    for validation in (x, (x,), (x, None), (x, None, np.ones(64)), (x, np.zeros(64), np.ones(64))):
        assert "val_loss" in model.fit(x, validation_data=validation, verbose=0).history

    def batches():
        while True:
            yield (x[:16],)

    model.fit(batches(), steps_per_epoch=2, verbose=0)


def test_sample_weight_counts():
    x = np.concatenate([ROWS[:32], ROWS[:32] + 50.0])
    weight = np.repeat([1.0, 0.0], 32).astype(np.float32)
    model = compiled(vector_flow())
    flows.initialize(model.flow, ROWS)
    result = model.evaluate(x, sample_weight=weight, batch_size=64, verbose=0, return_dict=True)
    expected = -np.sum(model.flow.log_prob(ROWS[:32])) / 64  # Keras divides by the batch size
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-4)
    before = [v.numpy() for v in model.flow.trainable_variables]
    model.fit(x, sample_weight=np.zeros(64), epochs=1, verbose=0)
    for variable, value in zip(model.flow.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_training_reaches_the_truth(jit):
    """A correlated Gaussian has a known entropy; the flow comes within 0.1 nats of it."""
    random = np.random.RandomState(3)
    matrix = random.normal(size=(2, 2)).astype(np.float32)
    x = random.normal(size=(4096, 2)).astype(np.float32) @ matrix + 3.0
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * matrix.T @ matrix)[1]
    model = compiled(flows.real_nvp((2,), layers=4, hidden=(16,)), jit)
    model.fit(x, epochs=6, batch_size=128, verbose=0)
    loss = model.evaluate(x, verbose=0, return_dict=True)["loss"]
    assert entropy - 0.05 < loss < entropy + 0.1


def test_callbacks():
    model = compiled(vector_flow())
    seen = []
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
    ]
    model.fit(ROWS, validation_data=ROWS, epochs=3, callbacks=callbacks, verbose=0)
    assert {"loss", "val_loss"} <= set(seen[0])


def test_moving_average_of_weights():
    model = flows.FlowModel(vector_flow())
    optimizer = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer=optimizer)
    model.fit(ROWS, epochs=2, verbose=0)
    assert np.isfinite(model.evaluate(ROWS, verbose=0, return_dict=True)["loss"])


def test_regularisers_of_conditioners_count():
    from tfp_flows import bijectors as fb

    def build(strength):
        keras.utils.set_random_seed(1)
        net = keras.Sequential(
            [
                keras.layers.Input((1,)),
                keras.layers.Dense(
                    2, kernel_regularizer=keras.regularizers.L2(strength), name="dense"
                ),
            ]
        )
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
        model = compiled(tfd.TransformedDistribution(base, fb.AffineCoupling(net)))
        return model.evaluate(ROWS[:, :2], verbose=0, return_dict=True)["loss"], net

    (plain, _), (penalised, net) = build(0.0), build(2.0)
    expected = 2.0 * float(tf.reduce_sum(tf.square(tf.convert_to_tensor(net.layers[-1].kernel))))
    np.testing.assert_allclose(penalised - plain, expected, rtol=1e-3)


def whole_norm(weight):
    """A regulariser that is not the sum of its values for parts of the weight."""
    return tf.sqrt(tf.reduce_sum(tf.square(weight)))


class Module(tf.Module):
    """A network whose weight has norm 1."""

    def __init__(self):
        super().__init__()
        start = np.random.RandomState(0).normal(size=(1, 2))
        self.weight = tf.Variable(start, dtype=tf.float32, constraint=lambda w: w / whole_norm(w))

    def __call__(self, x):
        return tf.matmul(x, self.weight)


def layer(**rules):
    net = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(2, **rules)])
    return net


@pytest.mark.parametrize(
    "make", [Module, lambda: layer(kernel_constraint=lambda w: w / whole_norm(w))]
)
@pytest.mark.parametrize("template", [True, False])
def test_constraints_hold_for_every_step(make, template):
    from tfp_flows import bijectors as fb

    step = fb.AffineCoupling(make()) if template else lambda: fb.AffineCoupling(make())
    repeat = fb.Repeat(step, 3)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    model = compiled(flows.distributions.Flow(base, repeat))
    model.fit(ROWS[:, :2], epochs=1, verbose=0)
    (weights,) = (v.numpy() for v in repeat.trainable_variables if v.shape == (3, 1, 2))
    np.testing.assert_allclose([whole_norm(w) for w in weights], np.ones(3), rtol=1e-5)


@pytest.mark.parametrize("template", [True, False])
def test_regularisers_hold_for_every_step(template):
    from tfp_flows import bijectors as fb

    def build(regulariser):
        keras.utils.set_random_seed(1)
        step = lambda: fb.AffineCoupling(layer(kernel_regularizer=regulariser))  # noqa: E731
        repeat = fb.Repeat(step() if template else step, 3)
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
        model = compiled(flows.distributions.Flow(base, repeat))
        loss = model.evaluate(ROWS[:, :2], verbose=0, return_dict=True)["loss"]
        (weights,) = (v.numpy() for v in repeat.trainable_variables if v.shape == (3, 1, 2))
        return loss, weights

    (plain, _), (penalised, weights) = build(None), build(whole_norm)
    expected = sum(whole_norm(w) for w in weights)
    np.testing.assert_allclose(penalised - plain, expected, rtol=1e-4)


def test_dropout_follows_the_mode():
    model = compiled(flows.real_nvp((3,), 2, (8,), dropout=0.5))
    model.fit(ROWS, epochs=2, verbose=0)
    np.testing.assert_array_equal(model(ROWS), model(ROWS))
    assert not np.allclose(model(ROWS, training=True), model(ROWS, training=True))


def test_masks_of_tfp_networks_hold():
    """They are constraints, which a Keras 3 optimizer applies only to its own variables."""
    flow = masked_autoregressive()
    model = compiled(flow)
    x = (ROWS - ROWS.mean(0)) / ROWS.std(0)
    model.fit(x, epochs=2, verbose=0)
    point = tf.constant(x[:4])
    with tf.GradientTape() as tape:
        tape.watch(point)
        z = flow.bijector.inverse(point)
    jacobian = tape.batch_jacobian(z, point)
    np.testing.assert_allclose(np.triu(jacobian, 1), np.zeros((4, 3, 3)), atol=1e-7)
    np.testing.assert_allclose(model.decode(model.encode(x)), x, atol=1e-3)


def test_frozen_parts_stay():
    from tfp_flows import bijectors as fb
    from tfp_flows.conditioners import mlp

    nets = [mlp(1, 2, (4,)), mlp(1, 2, (4,))]
    nets[0].trainable = False
    chain = fb.Chain([fb.AffineCoupling(nets[0]), fb.AffineCoupling(nets[1], swap=True)])
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), chain)
    assert len(flow.trainable_variables) == 4
    model = compiled(flow)
    assert len(model.trainable_variables) == 4
    frozen = [w.copy() for w in nets[0].get_weights()]
    model.fit(ROWS[:, :2], epochs=1, verbose=0)
    for now, before in zip(nets[0].get_weights(), frozen, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("stacked", [True, False])
def test_networks_can_be_frozen_at_any_time(stacked):
    """In a stacked flow, for all of its steps."""
    flow = flows.neural_spline((3,), 4, (4,), 2, stacked=stacked)
    flows.initialize(flow, ROWS)
    model = compiled(flow)
    parts = flow.bijector.bijectors[0].bijector.bijectors if stacked else flow.bijector.bijectors
    nets = [part.conditioner for part in parts if hasattr(part, "conditioner")]
    everything = len(flow.trainable_variables)
    of_nets = 4 * len(nets)

    def what_moved():
        before = [v.numpy() for v in flow.variables]
        model.fit(ROWS, epochs=1, verbose=0)
        pairs = zip(flow.variables, before, strict=True)
        return {id(v) for v, old in pairs if not np.array_equal(v, old)}

    all_of_them = what_moved()
    assert len(all_of_them) == everything
    for net in nets:
        net.trainable = False
    assert len(flow.trainable_variables) == everything - of_nets
    rest = what_moved()
    assert rest == {id(v) for v in flow.trainable_variables}
    assert len(model.trainable_variables) == everything - of_nets
    nets[0].trainable = True
    assert len(what_moved()) == everything - of_nets + 4


def test_setting_trainable_on_other_parts_raises():
    flow = flows.real_nvp((2,), 2, (4,))
    for part in (flow, flow.bijector, flow.bijector.bijectors[0]):
        assert not hasattr(part, "trainable")
        with pytest.raises(AttributeError, match=r"conditioner\.trainable = False"):
            part.trainable = False


def test_the_right_variables_are_frozen_later():
    """Names sort the encoder's variables before those of the base; `flow.variables` does not."""
    encoder = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    base = tfd.Independent(tfd.Normal(tf.Variable([0.0, 0.0]), tf.Variable([1.0, 1.0])), 1)
    bijector = flows.real_nvp((2,), 2, (4,), context_shape=(2,)).bijector
    flow = flows.distributions.Flow(base, bijector, (3,), encoder)
    data = ROWS[:64, :2], ROWS[:64]
    model = compiled(flow)
    model.fit(data, verbose=0)
    encoder.trainable = False
    before = [v.numpy() for v in flow.variables]
    model.fit(data, epochs=2, verbose=0)
    pairs = zip(flow.variables, before, strict=True)
    moved = {id(v) for v, old in pairs if not np.array_equal(v, old)}
    assert moved == {id(v) for v in flow.trainable_variables}


def test_frozen_stacks_stay_frozen_in_files(tmp_path):
    flow = flows.real_nvp((2,), 2, (4,))
    for part in flow.bijector.bijectors[0].bijector.bijectors:
        if hasattr(part, "conditioner"):
            part.conditioner.trainable = False
    model = compiled(flow)
    model.fit(ROWS[:, :2], epochs=1, verbose=0)
    model.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    assert len(loaded.flow.trainable_variables) == len(flow.trainable_variables) == 4


def test_encode_decode_sample():
    model = compiled(vector_flow())
    model.fit(ROWS, epochs=1, verbose=0)
    z = model.encode(ROWS)
    np.testing.assert_allclose(model.decode(z), ROWS, atol=1e-3)
    assert model.sample(0, seed=1).shape == [0, 3]
    np.testing.assert_array_equal(model.sample(5, seed=1), model.sample(5, seed=1))
    np.testing.assert_array_equal(model.sample(5, seed=1), model.sample(5, seed=[1, 0]))
    assert not np.allclose(model.sample(5, seed=1), model.sample(5, seed=2))
    assert not np.allclose(model.sample(5), model.sample(5))
    cold = model.encode(model.sample(500, seed=1, temperature=0.5))
    np.testing.assert_allclose(np.std(cold), 0.5, rtol=0.1)
    np.testing.assert_allclose(
        model.sample(3, seed=1, temperature=0.0)[0], model.decode([[0.0] * 3])[0], atol=1e-5
    )


def test_pixels_encode_and_decode():
    model = compiled(pixel_flow())
    model.fit(PIXELS, epochs=1, verbose=0)
    np.testing.assert_array_equal(model.decode(model.encode(PIXELS)), PIXELS)
    samples = model.sample(10, seed=0)
    assert samples.dtype == tf.int32 and samples.shape == [10, 4, 4, 1]
    assert int(tf.reduce_min(samples)) >= 0 and int(tf.reduce_max(samples)) <= 7


def test_distribution_without_bijector():
    model = compiled(mixture())
    model.fit(ROWS, epochs=1, verbose=0)
    assert model.sample(4, seed=0).shape == [4, 3]
    with pytest.raises(ValueError, match="no bijector"):
        model.encode(ROWS)
    with pytest.raises(ValueError, match="temperature"):
        model.sample(4, temperature=0.5)


def test_summary_lists_layers():
    lines = []
    flows.FlowModel(pixel_flow()).summary(print_fn=lines.append)
    text = "\n".join(lines)
    for word in ("actnorm", "conv1x1", "affine_coupling", "squeeze", "(2, 2, 4)", "trainable"):
        assert word in text
    flows.FlowModel(mixture()).summary(print_fn=lines.append)


def test_default_of_jit_compile():
    def choice(flow):
        model = flows.FlowModel(flow)
        model.compile()
        return bool(model._jit_compile if IS_LEGACY else model.jit_compile)

    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    assert choice(vector_flow()) is on_gpu
    assert choice(pixel_flow()) is on_gpu
    assert choice(mixture()) is False


# Bad input


def test_what_is_not_a_flow():
    with pytest.raises(TypeError, match=r"tfd\.Distribution, got"):
        flows.FlowModel(tfb.Exp())
    with pytest.raises(ValueError, match="no trainable variables"):
        flows.FlowModel(tfd.Normal(0.0, 1.0))
    hidden = tf.Variable([0.1, 0.2, 0.3], name="lost")

    class Lost(tfd.Normal):
        def _log_prob(self, x):
            return super()._log_prob(x) + tf.reduce_sum(hidden)

    with pytest.raises(flows.UntrackedVariableError, match="lost"):
        flows.FlowModel(Lost(tf.Variable(0.0), 1.0))
    with pytest.raises(ValueError, match="compile without `loss`"):
        flows.FlowModel(vector_flow()).compile(loss="mse")


def test_bad_rows_are_counted_and_nothing_is_trained():
    bad = ROWS.copy()
    bad[[3, 9], 1] = [np.nan, np.inf]
    model = compiled(vector_flow())
    flows.initialize(model.flow, ROWS)
    before = [v.numpy() for v in model.flow.variables]
    with pytest.raises(ValueError, match="2 of 256 rows hold NaN or infinity"):
        model.fit(bad, verbose=0)
    with pytest.raises(ValueError, match="2 of 256 rows"):
        model.fit(ROWS, validation_data=bad, verbose=0)
    with pytest.raises(ValueError, match="2 of 256 rows"):
        model.evaluate(bad, verbose=0)
    with pytest.raises(ValueError, match="2 of 256 rows"):
        model.log_prob(bad)
    data = tf.data.Dataset.from_tensor_slices(bad).batch(256)
    with pytest.raises(tf.errors.InvalidArgumentError, match="rows of a batch that hold NaN"):
        model.fit(data, verbose=0)
    for variable, value in zip(model.flow.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_bad_shapes_types_and_levels():
    model = compiled(vector_flow())
    with pytest.raises(ValueError, match=r"shape \(n, 3\); got \(5, 4\)"):
        model.fit(np.ones((5, 4)), verbose=0)
    with pytest.raises(TypeError, match=r"int64.*Dequantized"):
        model.fit(np.ones((5, 3), np.int64), verbose=0)
    with pytest.raises(ValueError, match="batches of shape"):
        model.fit(tf.data.Dataset.from_tensor_slices(ROWS), verbose=0)
    with pytest.raises(ValueError, match="generator"):
        model.fit(((ROWS[:4],) for _ in range(3)), verbose=0)
    pixels = compiled(pixel_flow())
    with pytest.raises(ValueError, match=r"levels=8.*The range is 1 \.\.\. 9"):
        pixels.fit(PIXELS + 9 * (PIXELS == 0), verbose=0)


def test_sampling_before_initialisation():
    with pytest.raises(RuntimeError, match="not initialised"):
        flows.FlowModel(vector_flow()).sample(3)


def test_invalid_arguments():
    model = compiled(vector_flow())
    with pytest.raises(TypeError, match="dict"):
        model.fit({"x": ROWS}, verbose=0)
    with pytest.raises(TypeError, match="NoneType"):
        model.fit(verbose=0)
    with pytest.raises(RuntimeError, match="compile"):
        flows.FlowModel(vector_flow()).fit(ROWS)
    with pytest.raises(ValueError, match="a flow has none"):
        model.compile("adam", metrics=["mae"])
    with pytest.raises(ValueError, match=r"tfd\.Independent"):
        flows.FlowModel(tfd.Normal(tf.Variable([0.0, 1.0]), 1.0))
    with pytest.raises(ValueError, match="no examples"):
        model.fit(ROWS[:0], verbose=0)
    model.fit(ROWS, epochs=1, verbose=0)
    assert model.log_prob(ROWS[:0]).shape == [0]
    for n in (-1, 2.5, (2, 3)):
        with pytest.raises(ValueError, match="whole number n"):
            model.sample(n)
    for seed in (2**40, [1, 2, 3], 0.5):
        with pytest.raises(ValueError, match="seed"):
            model.sample(2, seed=seed)
    for temperature in (-1.0, np.nan):
        with pytest.raises(ValueError, match="temperature"):
            model.sample(2, temperature=temperature)
    with pytest.raises(ValueError, match=r"latents of shape \(None, 3\), got \(2, 4\)"):
        model.decode(np.zeros((2, 4)))
    traced = tf.function(lambda x: model.log_prob(x))
    np.testing.assert_allclose(traced(ROWS), model.log_prob(ROWS), rtol=1e-5)


def test_base_without_a_mean():
    from tfp_flows import bijectors as fb

    base = tfd.Independent(tfd.Cauchy([0.0, 0.0], 1.0), 1)
    model = compiled(tfd.TransformedDistribution(base, fb.ActNorm(2)))
    model.fit(ROWS[:, :2], epochs=1, verbose=0)
    assert np.isfinite(model.sample(50, seed=0)).all()
    with pytest.raises(ValueError, match="temperature"):
        model.sample(2, temperature=0.5)


def test_activity_regularisers_are_refused():
    from tfp_flows import bijectors as fb

    net = keras.Sequential(
        [keras.layers.Input((1,)), keras.layers.Dense(2, activity_regularizer="l2")]
    )
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.AffineCoupling(net))
    with pytest.raises(ValueError, match="activity"):
        flows.FlowModel(flow)
