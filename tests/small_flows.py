"""Small flows that are not the identity."""

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


NORMAL = tfd.Sample(tfd.Normal(0.0, 1.0), 2)

# Every ready-made family over pairs, with normal latents: `{name: context_shape -> flow}`.
FAMILIES = {
    "nice": lambda c: flows.nice((2,), 2, (8,), context_shape=c).copy(distribution=NORMAL),
    "real_nvp": lambda c: flows.real_nvp((2,), 2, (8,), context_shape=c),
    "neural_spline": lambda c: flows.neural_spline((2,), 2, (8,), bins=3, context_shape=c),
    "maf": lambda c: flows.maf((2,), 2, (8,), context_shape=c),
    "maf-spline": lambda c: flows.maf((2,), 1, (8,), "spline", bins=3, context_shape=c),
    "iaf": lambda c: flows.iaf((2,), 2, (8,), context_shape=c),
    "flow_plus_plus": lambda c: flows.flow_plus_plus(
        (2,), 2, (8,), 2, stacked=False, context_shape=c
    ),
    "ffjord": lambda c: flows.ffjord((2,), (4,), context_shape=c),
    "ffjord-fixed": lambda c: flows.ffjord((2,), (4,), solver="fixed", context_shape=c),
    "residual": lambda c: flows.residual((2,), 1, (8,), context_shape=c),
    "planar": lambda c: flows.planar((2,), 2, context_shape=c),
    "radial": lambda c: flows.radial((2,), 2, context_shape=c),
    "sylvester": lambda c: flows.sylvester((2,), 2, rank=2, context_shape=c),
}
