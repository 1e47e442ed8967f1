"""Training does not depend on the unit and the offset of the data."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.keras_engine import keras

tfb, tfd = tfp.bijectors, tfp.distributions

EPOCHS = 5
VECTORS = {
    "nice": lambda **k: flows.nice((3,), 2, (8,), **k),
    "real_nvp": lambda **k: flows.real_nvp((3,), 2, (8,), **k),
    "real_nvp-unstacked": lambda **k: flows.real_nvp((3,), 2, (8,), stacked=False, **k),
    "real_nvp-reversible": lambda **k: flows.real_nvp((3,), 2, (8,), reversible=True, **k),
    "neural_spline": lambda **k: flows.neural_spline((3,), 2, (8,), seed=0, **k),
    "neural_spline-unstacked": lambda **k: flows.neural_spline(
        (3,), 2, (8,), stacked=False, seed=0, **k
    ),
    "flow_plus_plus": lambda **k: flows.flow_plus_plus((3,), 2, (8,), components=2, seed=0, **k),
    "maf": lambda **k: flows.maf((3,), 2, (8,), **k),
    "maf-spline": lambda **k: flows.maf((3,), 2, (8,), "spline", **k),
    "maf-unstacked": lambda **k: flows.maf((3,), 2, (8,), order="random", seed=0, **k),
    "iaf": lambda **k: flows.iaf((3,), 2, (8,), **k),
    "residual": lambda **k: flows.residual((3,), 2, (8,), **k),
    "ffjord": lambda **k: flows.ffjord((3,), (8,), solver="fixed", num_steps=4, **k),
    "planar": lambda **k: flows.planar((3,), 2, seed=0, **k),
    "radial": lambda **k: flows.radial((3,), 2, seed=0, **k),
    "sylvester": lambda **k: flows.sylvester((3,), 2, seed=0, **k),
}
IMAGES = {
    "real_nvp-image": lambda **k: flows.real_nvp((4, 4, 1), hidden=4, blocks=1, **k),
    "glow": lambda **k: flows.glow((4, 4, 1), 1, 2, 4, seed=0, **k),
    "glow-unstacked": lambda **k: flows.glow((4, 4, 1), 2, 1, 4, stacked=False, seed=0, **k),
    "neural_spline-image": lambda **k: flows.neural_spline((4, 4, 1), 1, 4, levels=1, seed=0, **k),
    "flow_plus_plus-image": lambda **k: flows.flow_plus_plus(
        (4, 4, 1), hidden=4, components=2, couplings=(1, 1, 0), blocks=1, seed=0, **k
    ),
}
BUILD = VECTORS | IMAGES
UNITS = {  # offset, and standard deviation of each column
    "1e-4": (0.0, 1e-4),
    "1e-6": (0.0, 1e-6),
    "1e6": (0.0, 1e6),
    "1e6, 1, 1e-6": (0.0, (1e6, 1.0, 1e-6)),
    "1e4 +- 1e-2": (1e4, 1e-2),
}
QUICK = ("neural_spline-unstacked", "maf")


def standard(shape, n=256):
    """Data that are not Gaussian, with columns that depend on each other."""
    x = np.random.RandomState(0).normal(size=(n, *shape))
    flat = x.reshape(n, -1)
    flat[:, 1:] += 0.5 * np.sin(2.0 * flat[:, :-1])
    return x


class Trained:
    """One model, which is traced once and trained from the same start for each unit."""

    def __init__(self, build, dtype):
        keras.utils.set_random_seed(0)
        self.model = flows.FlowModel(build(dtype=dtype))
        self.model.compile(optimizer=keras.optimizers.Adam(1e-2))
        self.model.optimizer.build(self.model.trainable_variables)
        kept = [*self.model.flow.variables, *self.model.optimizer.variables]
        self._start = [(v, v.numpy()) for v in kept]

    def loss(self, x) -> float:
        """The loss after some epochs, in nats, in the units of the data."""
        for variable, value in self._start:
            variable.assign(value)
        x = x.astype(self.model.flow.dtype.name)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*no density")
            self.model.fit(x, epochs=EPOCHS, batch_size=64, shuffle=False, verbose=0)
        return self.model.evaluate(x, verbose=0, return_dict=True)["loss"]

    def lost(self, offset, deviation) -> float:
        """The difference, in nats, to the loss of the same data in units of their own.

        The data are first rounded to the flow's dtype, which may leave few of their digits.
        """
        dtype = self.model.flow.dtype.name
        shape = tuple(self.model.flow.event_shape)
        deviation = np.broadcast_to(deviation, shape)
        x = (offset + deviation * standard(shape)).astype(dtype)
        plain = (x.astype("float64") - offset) / deviation
        return self.loss(x) - np.log(deviation).sum() - self.loss(plain)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BUILD]
)
def test_training_is_the_same_in_every_unit(name):
    # Data and constants are rounded in the last place, to 1e-7 nats or so in float32. Training
    # amplifies that, since Adam's steps do not shrink with the gradient: allow a thousandfold.
    trained = Trained(BUILD[name], tf.float32)
    for offset, deviation in UNITS.values():
        if name in IMAGES and np.ndim(deviation):
            continue  # a channel has one unit
        assert abs(trained.lost(offset, deviation)) < 1e-3, (offset, deviation)


@pytest.mark.parametrize("name", ["real_nvp-reversible", "maf"])
def test_units_of_float64(name):
    trained = Trained(BUILD[name], tf.float64)
    for offset, deviation in ((0.0, 1e-12), (1e8, 1e-4)):  # the latter keeps 4 digits
        assert abs(trained.lost(offset, deviation)) < 1e-9


def test_units_behind_a_data_bijector():
    """The logarithms of the data have a mean of 50 and a deviation of 1e-6."""
    plain = Trained(BUILD["neural_spline"], tf.float64)
    positive = Trained(lambda **k: BUILD["neural_spline"](data_bijector=tfb.Exp(), **k), tf.float64)
    x = np.exp(50.0 + 1e-6 * standard((3,)))
    log_det = np.log(x).sum(-1).mean() + 3.0 * np.log(1e-6)
    expected = plain.loss((np.log(x) - 50.0) / 1e-6) + log_det
    np.testing.assert_allclose(positive.loss(x), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_constant_column_stays_finite(dtype):
    x = standard((3,)).astype(dtype.as_numpy_dtype)
    x[:, 1] = 0.1
    model = flows.FlowModel(flows.maf((3,), 2, (8,), dtype=dtype))
    model.compile(optimizer="adam")
    with pytest.warns(UserWarning, match="column 1 is constant"):
        history = model.fit(x, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(model.sample(100, seed=0)).all()


@pytest.mark.parametrize("deviation", [1e-6, 1e6])
def test_units_are_not_a_fault_for_the_health_check(deviation):
    x = (deviation * standard((3,))).astype("float32")
    model = flows.FlowModel(flows.real_nvp((3,), 2, (8,), stacked=False))
    model.compile(optimizer="adam")
    health = flows.FlowHealth(x[:32])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flows.initialize(model.flow, x)
        model.fit(x, epochs=1, callbacks=[health], verbose=0)
    assert [record["fault"] for record in health.history] == [None, None]


def own_loop(flow, steps=10):
    """Reverse KL to a Gaussian, with no data."""
    target = tfd.MultivariateNormalDiag([1.0, -1.0], [0.5, 2.0])
    optimizer = tf.keras.optimizers.Adam(1e-2)

    @tf.function
    def step(seed):
        with tf.GradientTape() as tape:
            x, log_prob = flow.experimental_sample_and_log_prob(32, seed=seed)
            loss = tf.reduce_mean(log_prob - target.log_prob(x))
        gradients = tape.gradient(loss, flow.trainable_variables)
        optimizer.apply_gradients(zip(gradients, flow.trainable_variables, strict=True))

    optimizer.build(flow.trainable_variables)
    for i in range(steps):
        step(tf.constant([0, i]))


TRAINED_ELSEWHERE = {
    "stacked": lambda: flows.iaf((2,), 2, (4,)),
    "unstacked": lambda: flows.real_nvp((2,), 2, (4,), stacked=False),
    "ActNorm outside of a Repeat": lambda: flows.planar((2,), 2, seed=0),
}


@pytest.mark.parametrize("build", TRAINED_ELSEWHERE.values(), ids=TRAINED_ELSEWHERE.keys())
def test_a_flow_trained_by_another_loop_is_not_initialised(build):
    flow = build()
    model = flows.FlowModel(flow)
    with pytest.raises(RuntimeError, match="mark_initialized"):
        model.sample(3)
    own_loop(flow)
    model.sample(3)  # counts as initialised
    before = [v.numpy() for v in flow.variables]
    x = 5.0 * standard((2,), 64).astype("float32")
    flows.initialize(flow, x)
    for variable, value in zip(flow.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    model.fit(x, epochs=1, verbose=0)
    for variable, value in zip(flow.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_weights_that_were_assigned_or_restored_are_kept(tmp_path):
    trained = TRAINED_ELSEWHERE["stacked"]()
    own_loop(trained, 2)
    assigned, restored = TRAINED_ELSEWHERE["stacked"](), TRAINED_ELSEWHERE["stacked"]()
    for new, old in zip(assigned.trainable_variables, trained.trainable_variables, strict=True):
        new.assign(old)
    tf.train.Checkpoint(restored).read(tf.train.Checkpoint(trained).write(str(tmp_path / "ckpt")))
    x = 5.0 * standard((2,), 64).astype("float32")
    for flow in (assigned, restored):
        flows.initialize(flow, x)
        np.testing.assert_array_equal(flow.log_prob(x), trained.log_prob(x))


def test_untrained_layers_are_initialised_beside_trained_ones():
    one, two = fb.ActNorm(2), fb.ActNorm(2)
    one.log_scale.assign([0.0, 1.0])
    flow = tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), 2), fb.Chain([one, two]))
    x = 5.0 * standard((2,), 64).astype("float32") + 3.0
    flows.initialize(flow, x)
    np.testing.assert_array_equal(one.inverse(x), x * np.exp([0.0, -1.0]).astype("float32"))
    np.testing.assert_allclose(np.std(flow.bijector.inverse(x), 0), [1.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize("build", TRAINED_ELSEWHERE.values(), ids=TRAINED_ELSEWHERE.keys())
def test_a_flow_marked_as_initialised_stays_as_it_is(build):
    flow = build()
    flows.mark_initialized(flow)
    x = 5.0 * standard((2,), 64).astype("float32")
    before = flow.log_prob(x)
    flows.initialize(flow, x)
    np.testing.assert_array_equal(flow.log_prob(x), before)
    assert flows.FlowModel(flow).sample(3).shape == [3, 2]
    with pytest.raises(TypeError, match="mark_initialized takes a distribution"):
        flows.mark_initialized(flow.bijector)
