"""Random initial values: one seed sets them all, and no two parts share one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import MaskedDense, made, mlp, vector_field
from tfp_flows.keras_engine import keras

MAKERS = {
    "made": lambda seed=None: made(9, 2, (4,), "random", seed=seed),
    "rotation": lambda seed=None: fb.Rotation(9, seed),
    "convolution": lambda seed=None: fb.Invertible1x1Conv(9, seed),
    "householder": lambda seed=None: fb.Householder(9, seed=seed),
    "qr": lambda seed=None: fb.QRLinear(9, seed=seed),
    "planar": lambda seed=None: fb.Planar(9, seed=seed),
    "radial": lambda seed=None: fb.Radial(9, seed=seed),
    "sylvester": lambda seed=None: fb.Sylvester(9, 2, seed=seed),
    "repeated": lambda seed=None: fb.Repeat(fb.Rotation(9, seed), 3),
}
FLOWS = {
    "glow": lambda seed: flows.glow((4, 4, 1), 1, 4, 4, seed=seed),
    "glow-unstacked": lambda seed: flows.glow((4, 4, 1), 1, 4, 4, stacked=False, seed=seed),
    "neural_spline": lambda seed: flows.neural_spline((4,), 8, (4,), 2, seed=seed),
    "neural_spline-unstacked": lambda seed: flows.neural_spline(
        (4,), 4, (4,), 2, stacked=False, seed=seed
    ),
    "neural_spline-angles": lambda seed: flows.neural_spline(
        (4,), 5, (4,), 2, circular=True, seed=seed
    ),
    "neural_spline-image": lambda seed: flows.neural_spline((4, 4, 1), 4, 4, 2, seed=seed),
    "flow_plus_plus": lambda seed: flows.flow_plus_plus((4,), 4, (4,), 2, seed=seed),
    "flow_plus_plus-image": lambda seed: flows.flow_plus_plus(
        (4, 4, 1), hidden=4, components=2, couplings=(1, 2, 2), blocks=1, seed=seed
    ),
    "planar": lambda seed: flows.planar((4,), 4, seed=seed),
    "radial": lambda seed: flows.radial((4,), 4, seed=seed),
    "sylvester": lambda seed: flows.sylvester((4,), layers=4, seed=seed),
    "maf": lambda seed: flows.maf((9,), 4, (4,), order="random", seed=seed),
    "iaf": lambda seed: flows.iaf((9,), 4, (4,), order="random", seed=seed),
}


def orders(net):
    masked = [layer for layer in net.layers if isinstance(layer, MaskedDense)]
    return [tuple(layer.input_degrees) for layer in masked[:1]]


def starts(part):
    """The initial values of a part, and the orders of its autoregressive networks."""
    if isinstance(part, keras.Model):
        return orders(part)
    nets = [m.conditioner for m in part.submodules if isinstance(m, fb.MaskedAutoregressive)]
    found = [o for net in nets for o in orders(net)]
    return found or [v.numpy().tobytes() for v in part.variables]


@pytest.mark.parametrize("name", MAKERS)
def test_draws_without_a_seed_follow_keras(name):
    found = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        found += [starts(MAKERS[name]()), starts(MAKERS[name]())]
    assert found[:2] == found[2:4]  # as on another worker
    assert len({str(f) for f in found}) == 4  # two parts differ, and so do other seeds
    assert starts(MAKERS[name](7)) == starts(MAKERS[name](7))


@pytest.mark.parametrize("name", ["made", "rotation", "planar"])
def test_draws_without_a_seed_follow_tensorflow(name):
    found = []
    for _ in range(2):
        tf.random.set_seed(5)
        found.append(starts(MAKERS[name]()))
    assert found[0] == found[1]


def test_draws_inside_a_graph_are_an_error():
    @tf.function
    def trace():
        return fb.Rotation(3).forward(tf.zeros([3]))

    with pytest.raises(ValueError, match=r"tf\.function only supports singleton tf\.Variables"):
        trace()  # TensorFlow's own message, and not that of a symbolic seed


def parts(flow):
    """The random initial values in a flow: bytes for each variable of each step."""
    stacked = {
        id(v) for m in flow.submodules if isinstance(m, fb.Repeat) for v in m.trainable_variables
    }
    for variable in flow.trainable_variables:
        value = variable.numpy()
        for one in value if id(variable) in stacked else [value]:
            if one.size > 2 and np.ptp(one) > 0:
                yield one.tobytes()


@pytest.mark.parametrize("name", FLOWS)
def test_no_two_parts_have_equal_initial_values(name):
    found = []
    for seed in (0, 1, 2):
        flow = FLOWS[name](seed)
        found += starts(flow) if name in ("maf", "iaf") else parts(flow)
    assert len(found) >= 12
    assert len(set(found)) == len(found)


def test_blocks_of_ffjord_have_different_noise():
    seeds = [
        block.parameters["seed"]
        for seed in (0, 1, 2)
        for block in flows.ffjord((2,), (4,), blocks=3, seed=seed).bijector.bijectors
        if isinstance(block, fb.ContinuousFlow)
    ]
    assert len(set(seeds)) == len(seeds) == 9


def test_equal_seeds_give_equal_initial_values():
    for name in ("maf", "planar"):
        assert starts(FLOWS[name](5)) == starts(FLOWS[name](5))


@pytest.mark.parametrize("seed", [None, 5])
def test_steps_with_a_seeded_initialiser_differ(seed):
    net = keras.Sequential(
        [
            keras.layers.Input((2,)),
            keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed)),
        ]
    )
    repeat = fb.Repeat(fb.AffineCoupling(net), 3)
    (kernels,) = (v for v in repeat.trainable_variables if v.shape == (3, 2, 4))
    for one, other in itertools.combinations(kernels.numpy(), 2):
        assert not np.array_equal(one, other)


def residual(seed):
    return fb.Residual(mlp(3, 3, ()), "unbiased", seed=seed)


def continuous(seed):
    net = vector_field(3, (4,), activation="linear")
    return fb.ContinuousFlow(net, solver="fixed", num_steps=2, trace="hutchinson", seed=seed)


@pytest.mark.parametrize("make", [residual, continuous])
def test_steps_of_a_loop_have_different_noise(make):
    """With equal linear networks, equal noise would give every step the same log-det."""
    y = tf.ones([5, 3])
    step = make(0)
    variables = step.trainable_variables
    random = np.random.RandomState(0)
    for variable in variables:
        variable.assign(random.normal(size=variable.shape) * 0.2)
    one, two = (fb.Repeat(step, count) for count in (1, 2))
    for repeat in (one, two):
        for stacked, variable in zip(repeat.trainable_variables, variables, strict=True):
            stacked.assign(tf.broadcast_to(variable, stacked.shape))
    single, both = (r.inverse_log_det_jacobian(y, 1) for r in (one, two))
    assert np.abs(both - 2.0 * single).max() > 1e-3
    again = fb.Repeat(make(0), 2)
    for old, new in zip(two.trainable_variables, again.trainable_variables, strict=True):
        new.assign(old)
    np.testing.assert_array_equal(again.inverse_log_det_jacobian(y, 1), both)
    x = two.inverse(y)
    np.testing.assert_allclose(two.forward_log_det_jacobian(x, 1), -both, atol=1e-4)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "zero"])
def test_invalid_seeds_are_an_error(seed):
    for make in (MAKERS["rotation"], MAKERS["made"], FLOWS["neural_spline"]):
        with pytest.raises(ValueError, match="A seed is a whole number of 0 or more"):
            make(seed)
