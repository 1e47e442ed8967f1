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
