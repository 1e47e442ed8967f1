"""Small flows that are not the identity."""

from functools import partial

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp

tfd = tfp.distributions


def moved(module):
    """The same, with trainable variables away from their start, so that nothing is the identity."""
    random = np.random.RandomState(3)
    for variable in module.trainable_variables:
        variable.assign_add(tf.constant(random.normal(size=variable.shape) * 0.2, variable.dtype))
    return module


def small(context_shape=None):
    """Two couplings, which trace faster than what is ready-made."""
    halves = [
        fb.AffineCoupling(mlp(1, 2, (8,), context=context_shape), swap=s) for s in (False, True)
    ]
    base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
    return moved(flows.distributions.Flow(base, fb.Chain(halves), context_shape))


def ready_made(context_shape=None):
    return moved(flows.real_nvp((2,), layers=2, hidden=(8,), context_shape=context_shape))


# Every ready-made flow, small. A new one needs a line here, and all tests of families run on it.
# The arguments can be overridden: `READY_MADE["maf"](event_shape=(2,), context_shape=1)`.
READY_MADE = {
    "nice": partial(flows.nice, event_shape=(3,), layers=2, hidden=(4,)),
    "real_nvp": partial(flows.real_nvp, event_shape=(3,), layers=2, hidden=(4,)),
    "real_nvp-image": partial(flows.real_nvp, event_shape=(4, 4, 1), hidden=4, blocks=1),
    "glow": partial(flows.glow, event_shape=(4, 4, 1), levels=1, steps=2, hidden=4),
    "neural_spline": partial(flows.neural_spline, event_shape=(3,), layers=2, hidden=(4,), bins=4),
    "neural_spline-image": partial(
        flows.neural_spline, event_shape=(4, 4, 1), layers=1, hidden=4, bins=4
    ),
    "maf": partial(flows.maf, event_shape=(3,), layers=2, hidden=(6,)),
    "maf-spline": partial(
        flows.maf, event_shape=(3,), layers=2, hidden=(6,), transformer="spline", bins=4
    ),
    "iaf": partial(flows.iaf, event_shape=(3,), layers=2, hidden=(6,)),
    "ffjord": partial(flows.ffjord, event_shape=(3,), hidden=(4,), solver="fixed", num_steps=4),
    "ffjord-adaptive": partial(flows.ffjord, event_shape=(3,), hidden=(4,), kinetic_penalty=0.1),
    "residual": partial(flows.residual, event_shape=(3,), layers=2, hidden=(4,)),
    "flow_plus_plus": partial(
        flows.flow_plus_plus, event_shape=(3,), layers=2, hidden=(4,), components=2
    ),
    "flow_plus_plus-image": partial(
        flows.flow_plus_plus,
        event_shape=(4, 4, 1),
        hidden=4,
        components=2,
        couplings=(1, 1, 0),
        blocks=1,
    ),
    "planar": partial(flows.planar, event_shape=(3,), layers=2),
    "radial": partial(flows.radial, event_shape=(3,), layers=2),
    "sylvester": partial(flows.sylvester, event_shape=(3,), layers=2),
}
IMAGES = {n: make for n, make in READY_MADE.items() if len(make.keywords["event_shape"]) == 3}
VECTORS = {n: make for n, make in READY_MADE.items() if n not in IMAGES}
