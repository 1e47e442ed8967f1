"""What a flow can be part of in TFP, with its log-density by hand."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions

# What a flow is part of: makes `(log-density, by hand)` of a tensor `[4, 3, 2]`, from its parts.


def of_named(flow, given):
    joint = tfd.JointDistributionNamed({"z": flow, "x": lambda z: given.condition(z[..., :1])})
    return (
        lambda x: joint.log_prob(z=x[:, 0], x=x[:, 1]),
        lambda x: flow.log_prob(x[:, 0]) + given.log_prob(x[:, 1], context=x[:, 0, :1]),
    )


def of_sequential(flow, given):
    start = tfd.Sample(tfd.Normal(0.0, 1.0), 1)
    joint = tfd.JointDistributionSequential([start, lambda a: given.condition(a), flow])
    return (
        lambda x: joint.log_prob(x[:, 0, :1], x[:, 1], x[:, 2]),
        lambda x: (
            start.log_prob(x[:, 0, :1])
            + given.log_prob(x[:, 1], context=x[:, 0, :1])
            + flow.log_prob(x[:, 2])
        ),
    )


def coroutine(flow, given):
    z = yield tfd.JointDistributionCoroutine.Root(flow)
    yield given.condition(z[..., :1])


def of_coroutine(flow, given):
    joint = tfd.JointDistributionCoroutine(lambda: coroutine(flow, given))
    return (
        lambda x: joint.log_prob(x[:, 0], x[:, 1]),
        lambda x: flow.log_prob(x[:, 0]) + given.log_prob(x[:, 1], context=x[:, 0, :1]),
    )


def of_auto_batched(flow, given):
    joint = tfd.JointDistributionCoroutineAutoBatched(lambda: coroutine(flow, given))
    return lambda x: joint.log_prob(x[:, 0], x[:, 1]), of_coroutine(flow, given)[1]


def of_named_auto_batched(flow, given):
    joint = tfd.JointDistributionNamedAutoBatched(
        {"z": flow, "x": lambda z: given.condition(z[..., :1])}
    )
    return lambda x: joint.log_prob(z=x[:, 0], x=x[:, 1]), of_named(flow, given)[1]


def of_sequential_auto_batched(flow, given):
    joint = tfd.JointDistributionSequentialAutoBatched(
        [flow, lambda z: given.condition(z[..., :1])]
    )
    return lambda x: joint.log_prob(x[:, 0], x[:, 1]), of_named(flow, given)[1]


def of_vectorized_map(flow, given):
    return (
        lambda x: tf.vectorized_map(
            lambda z: flow.log_prob(z[0]) + given.log_prob(z[1], context=z[0, :1]), x
        ),
        of_named(flow, given)[1],
    )


def of_pinned(flow, given):
    joint = tfd.JointDistributionNamed({"z": flow, "x": lambda z: given.condition(z[..., :1])})
    seen = tf.constant([0.5, -1.0])
    pinned = joint.experimental_pin(x=seen)
    return (
        lambda x: pinned.unnormalized_log_prob(z=x[:, 0]),
        lambda x: flow.log_prob(x[:, 0]) + given.log_prob(seen, context=x[:, 0, :1]),
    )


CONTEXTS = tf.constant([[0.0], [1.0], [-2.0]])


def of_independent(flow, given):
    independent = tfd.Independent(given.condition(CONTEXTS), 1)
    return (
        independent.log_prob,
        lambda x: sum(given.log_prob(x[:, i], context=CONTEXTS[i]) for i in range(3)),
    )


def of_mixture_same_family(flow, given):
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.2, 0.3, 0.5]), given.condition(CONTEXTS)
    )

    def by_hand(x):
        parts = [given.prob(x[:, 0], context=CONTEXTS[i]) for i in range(3)]
        return tf.math.log(0.2 * parts[0] + 0.3 * parts[1] + 0.5 * parts[2])

    return lambda x: mixture.log_prob(x[:, 0]), by_hand


def of_mixture(flow, given):
    parts = [flow, given.condition(CONTEXTS[1])]
    mixture = tfd.Mixture(tfd.Categorical(probs=[0.4, 0.6]), parts)
    return (
        lambda x: mixture.log_prob(x[:, 0]),
        lambda x: tf.math.log(
            0.4 * flow.prob(x[:, 0]) + 0.6 * given.prob(x[:, 0], context=CONTEXTS[1])
        ),
    )


def of_sample(flow, given):
    return tfd.Sample(flow, 3).log_prob, lambda x: sum(flow.log_prob(x[:, i]) for i in range(3))


def of_batch_reshape(flow, given):
    reshaped = tfd.BatchReshape(given.condition(CONTEXTS), [3, 1])
    return (
        lambda x: reshaped.log_prob(x[:, :, tf.newaxis])[..., 0],
        lambda x: given.log_prob(x, context=CONTEXTS),
    )


def of_batch_broadcast(flow, given):
    broadcast = tfd.BatchBroadcast(given.condition(CONTEXTS), [4, 3])
    return broadcast.log_prob, lambda x: given.log_prob(x, context=CONTEXTS)


def pushed(flow, bijector, event_shape):
    """The density of a standard normal seen through one of TFP's containers."""
    base = tfd.Sample(tfd.Normal(0.0, 1.0), event_shape)
    return tfd.TransformedDistribution(base, bijector).log_prob


def standard(z):
    return tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(z), -1)


def of_blockwise(flow, given):
    blockwise = tfb.Blockwise([flow.bijector, tfb.Scale(3.0)], block_sizes=[2, 1])
    return (
        lambda x: pushed(flow, blockwise, 3)(tf.concat([x[:, 0], x[:, 1, :1]], -1)),
        lambda x: flow.log_prob(x[:, 0]) + standard(x[:, 1, :1] / 3.0) - np.log(3.0),
    )


def of_joint_map(flow, given):
    base = tfd.JointDistributionNamed({n: tfd.Sample(tfd.Normal(0.0, 1.0), 2) for n in "ab"})
    mapped = tfb.JointMap({"a": flow.bijector, "b": tfb.Scale(3.0)})
    density = tfd.TransformedDistribution(base, mapped)
    return (
        lambda x: density.log_prob({"a": x[:, 0], "b": x[:, 1]}),
        lambda x: flow.log_prob(x[:, 0]) + standard(x[:, 1] / 3.0) - 2.0 * np.log(3.0),
    )


def of_invert(flow, given):
    f = flow.bijector
    return (
        lambda x: pushed(flow, tfb.Invert(f), 2)(x[:, 0]),
        lambda x: standard(f.forward(x[:, 0])) + f.forward_log_det_jacobian(x[:, 0], 1),
    )


def of_chain(flow, given):
    chain = tfb.Chain([tfb.Scale(3.0), flow.bijector, tfb.Shift(1.0)])

    def by_hand(x):
        z, log_det = flow.bijector.inverse_and_log_det(x[:, 0] / 3.0)
        return standard(z - 1.0) + log_det - 2.0 * np.log(3.0)

    return lambda x: pushed(flow, chain, 2)(x[:, 0]), by_hand


def of_transformed(flow, given):
    return (
        lambda x: tfd.TransformedDistribution(flow.distribution, flow.bijector).log_prob(x[:, 0]),
        lambda x: flow.log_prob(x[:, 0]),
    )


PLACES = [
    of_named,
    of_sequential,
    of_coroutine,
    pytest.param(of_auto_batched, marks=pytest.mark.slow, id="auto_batched"),
    pytest.param(of_named_auto_batched, marks=pytest.mark.slow, id="named_auto_batched"),
    pytest.param(of_sequential_auto_batched, marks=pytest.mark.slow, id="seq_auto_batched"),
    of_vectorized_map,
    of_pinned,
    of_independent,
    of_mixture_same_family,
    of_mixture,
    of_sample,
    of_batch_reshape,
    of_batch_broadcast,
    of_blockwise,
    of_joint_map,
    of_invert,
    of_chain,
    of_transformed,
]
