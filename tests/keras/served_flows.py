"""Flows that are exported, and their signatures as a server calls them."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.distributions import Flow

tfb, tfd = tfp.bijectors, tfp.distributions
RANDOM = np.random.RandomState(0)
ROWS = RANDOM.normal(size=(16, 3))
PIXELS = RANDOM.binomial(7, 0.3, size=(16, 4, 4, 1))
CONTEXTS = RANDOM.normal(size=(16, 2)).astype(np.float32)
LABELS = RANDOM.randint(0, 3, size=16).astype(np.int32)


def mixture():
    """A distribution without a bijector."""
    locations = tfd.Normal(tf.Variable([[-1.0, 0.0, 1.0], [1.0, 2.0, 3.0]]), 1.0)
    return tfd.MixtureSameFamily(tfd.Categorical([0.0, 0.0]), tfd.Independent(locations, 1))


def off_centre():
    """A base whose mean is not 0."""
    base = tfd.Sample(tfd.Normal(3.0, 1.0), 3)
    return Flow(base, fb.Chain([fb.AffineCoupling(mlp(2, 2, (4,)), mask=[True, False, True])]))


FLOWS = {
    "plain": lambda: flows.real_nvp((3,), 2, (4,)),
    "context": lambda: flows.nice((3,), 2, (4,), context_shape=(2,)),
    "labels": lambda: flows.with_labels(flows.nice((3,), 2, (4,), context_shape=(2,)), 3),
    "float64": lambda: flows.nice((3,), 2, (4,), dtype=tf.float64),
    "pixels": lambda: flows.Dequantized(flows.glow((4, 4, 1), 1, 1, 4), levels=8),
    "no-bijector": mixture,
    "off-centre": off_centre,
}


class Served:
    """A SavedModel of a flow, and calls of its signatures on `n` examples."""

    def __init__(self, name, folder):
        flow = FLOWS[name]()
        self.x = tf.cast(PIXELS if name == "pixels" else ROWS, flow.dtype)
        contexts = {"context": CONTEXTS, "labels": LABELS}
        self.context = {"context": contexts[name]} if name in contexts else {}
        flows.initialize(flow, self.x, **self.context)
        self.model, self.folder = flows.FlowModel(flow, name=name), folder
        self.model.export(folder)
        self.loaded = tf.saved_model.load(str(folder))
        self.signatures = self.loaded.signatures

    def __call__(self, signature, count, **arguments):
        given = {k: tf.constant(v[:count]) for k, v in self.context.items()}
        (output,) = self.signatures[signature](**(given | arguments)).values()
        return output.numpy()

    def sample(self, n, seed=5, temperature=1.0):
        arguments = {"n": tf.constant(n), "seed": tf.constant([seed, 0])}
        if "temperature" in self.signatures["sample"].structured_input_signature[1]:
            arguments["temperature"] = tf.constant(temperature)
        return self("sample", n, **arguments)
