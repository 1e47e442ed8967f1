"""The evaluation context: mode, noise, penalties, shared values and the version of settings."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfp_flows import bijectors as fb
from tfp_flows import conditioners
from tfp_flows.core.evaluation import (
    Evaluation,
    NoiseSource,
    add_penalty,
    at_index,
    collecting_penalties,
    current,
    evaluating,
    noise_seed,
    settings_changed,
    shared,
    sharing,
)
from tfp_flows.keras_engine import IS_LEGACY

ENGINES = {"keras": keras, "tf_keras": tf_keras}


def noise(step=0):
    return NoiseSource(lambda: tf.constant([7, step], tf.int32))


def called(engine: str, function, x, training: bool):
    """`function(x)` inside a layer of this engine that is called in this mode."""
    layers = ENGINES[engine].layers

    class Outer(layers.Layer):
        def call(self, inputs, training=None):
            return function(inputs)

    return Outer()(x, training=training)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("traced", [False, True])
def test_mode_is_that_of_the_keras_model_being_called(engine, traced):
    seen = []

    def look(x):
        seen.append(current().in_training)
        with evaluating(training=False):
            seen.append(current().in_training)
        return x

    def step(x):
        called(engine, look, x, training=True)
        called(engine, look, x, training=False)
        return look(x)

    (tf.function(step, autograph=False) if traced else step)(tf.ones([2]))
    assert seen == [True, False, False, False, False, False]


def test_fields_are_restored_and_belong_to_one_thread():
    elsewhere = []
    with pytest.raises(ZeroDivisionError), evaluating(training=True, noise=noise()):
        with at_index(2), at_index(3):
            assert current().indices == (2, 3)
            thread = threading.Thread(target=lambda: elsewhere.append(current()))
            thread.start()
            thread.join()
        assert current().indices == ()
        _ = 1 / 0
    assert current() is elsewhere[0]
    assert current().key == Evaluation().key


def test_key_differs_wherever_something_else_is_computed():
    source = noise()
    changes = [{}, {"training": True}, {"noise": source}, {"indices": (1,)}, {"penalties": []}]
    changes.append({"substituting": True})
    keys = set()
    for change in changes:
        with evaluating(**change):
            keys |= {current().key}
            assert current().key in keys  # the same at each look
    settings_changed()
    assert len({*keys, current().key}) == len(changes) + 1
    with evaluating(shared={}):  # which changes no value
        assert current().key == Evaluation().key


def test_key_holds_indices_that_are_tensors():
    @tf.function
    def keys(i):
        with at_index(i):
            first, again = current().key, current().key
        with at_index(i + 1):
            other = current().key
        assert first == again != other
        hash(first)
        return i

    keys(tf.constant(1))


def test_seeds_differ_by_owner_index_and_step_and_repeat_themselves():
    one, two = object(), object()

    def seeds(step):
        with evaluating(noise=noise(step)):
            drawn = [noise_seed(one), noise_seed(two), noise_seed(one)]
            for index in range(2):
                with at_index(index):
                    drawn.append(noise_seed(one))
        return [tuple(s.numpy()) for s in drawn]

    first = seeds(0)
    assert first[0] == first[2]
    assert len({*first, *seeds(1)}) == 8
    assert first == seeds(0)
    assert tuple(noise_seed(one).numpy()) != tuple(noise_seed(one).numpy())


def test_own_seed_goes_before_that_of_the_evaluation():
    with evaluating(noise=noise()):
        assert list(noise_seed(object(), 5).numpy()) == [5, 0]
        with at_index(1):
            other = list(noise_seed(object(), 5).numpy())
    assert other != [5, 0]


def test_values_are_shared_within_a_graph_and_those_inside_of_it():
    owner, calls = object(), []

    def value():
        calls.append(1)
        return tf.constant(2.0)

    @tf.function
    def loop():
        with sharing():
            start = shared(owner, value)
            return tf.while_loop(
                lambda n, _: n < 3, lambda n, x: (n + 1, x + shared(owner, value)), (0, start)
            )[1]

    assert float(loop()) == 8.0
    assert len(calls) == 1
    with sharing():  # a tensor of the graph is not for eager mode
        assert float(shared(owner, value)) == 2.0
    shared(owner, value)
    shared(owner, value)
    assert len(calls) == 4


def test_penalties_go_to_the_innermost_collector():
    add_penalty(tf.ones([3]))  # to nobody
    with collecting_penalties() as outer:
        add_penalty(tf.ones([2]))
        with collecting_penalties() as inner:
            add_penalty(tf.zeros([1]))
        add_penalty(tf.ones([2]))
    assert [len(outer), len(inner)] == [2, 1]
    assert not current().collects_penalties


@pytest.mark.parametrize("unroll", [False, True])
def test_recomputed_passes_draw_the_same_noise(unroll):
    """With other draws in the recomputed pass, gradients would be those of another estimate."""
    net = conditioners.lipschitz_mlp(3, (8,), bound=0.9)
    step = fb.Residual(net, log_det="unbiased")
    plain = fb.Repeat(step, 3, unroll=unroll)
    stacked = plain.parameters["stacked"]
    recomputed = fb.Repeat(step, 3, unroll=unroll, reversible=True, stacked=stacked)
    x = tf.random.stateless_normal([5, 3], [0, 1])

    @tf.function
    def gradients(repeat, seed):
        with evaluating(noise=NoiseSource(lambda: seed)), tf.GradientTape() as tape:
            _, log_det = repeat.inverse_and_log_det(x, 1)
        return log_det, tape.gradient(log_det, plain.trainable_variables)

    seed = tf.constant([1, 2], tf.int32)
    (log_det, expected), (same, found) = gradients(plain, seed), gradients(recomputed, seed)
    np.testing.assert_allclose(same, log_det, rtol=1e-5)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
    other = gradients(recomputed, tf.constant([3, 4], tf.int32))[0]
    assert np.abs(other - log_det).max() > 1e-3


def dropout():
    return conditioners.mlp(2, 4, (16,), dropout=0.5)


def batch_normalised(engine: str):
    layers = ENGINES[engine].layers
    net = ENGINES[engine].Sequential(
        [layers.Dense(8, activation="tanh"), layers.BatchNormalization(), layers.Dense(4)]
    )
    net.build((None, 2))
    return net


def repeated_dropout(reversible: bool):
    return fb.Repeat(fb.AffineCoupling(dropout()), 3, reversible=reversible)


def chained(engine: str):
    return lambda reversible: fb.Chain(
        [fb.AffineCoupling(batch_normalised(engine), swap=swap) for swap in (False, True)],
        reversible=reversible,
    )


def penalised(reversible: bool):
    step = fb.ContinuousFlow(
        conditioners.vector_field(4, (4,)),
        solver="fixed",
        trace="hutchinson",
        kinetic_penalty=0.5,
        jacobian_penalty=0.5,
    )
    return fb.Repeat(step, 2, reversible=reversible)


@pytest.mark.parametrize("outer", ENGINES)
@pytest.mark.parametrize(
    "build",
    [chained("keras"), chained("tf_keras"), repeated_dropout, penalised],
    ids=["batch normalisation", "batch normalisation of tf_keras", "dropout", "penalties"],
)
def test_recomputed_passes_are_in_the_mode_of_the_model(build, outer):
    """As in `fit`: the model is called in training mode, and gradients are taken outside of it."""
    if IS_LEGACY and build is repeated_dropout:
        pytest.skip("tf_keras's dropout is refused instead")
    x = tf.random.stateless_normal([6, 4], [0, 1])
    outcomes = []
    for reversible in (False, True):
        bijector = build(reversible)
        for i, v in enumerate(bijector.variables):
            start = tf.random.stateless_normal(v.shape, [i, 1]) if v.trainable else tf.ones(v.shape)
            v.assign(tf.cast(start, v.dtype))

        @tf.function(autograph=False)
        def step(x, bijector=bijector):
            source = NoiseSource(lambda: tf.constant([1, 2]))
            with (
                evaluating(noise=source),
                collecting_penalties() as penalties,
                tf.GradientTape() as tape,
            ):
                z, log_det = called(
                    outer, lambda x: bijector.inverse_and_log_det(x, 1), x, training=True
                )
                loss = tf.reduce_sum(z**2) - tf.reduce_sum(log_det)
                loss += sum(tf.reduce_sum(p) for p in penalties)
            return loss, tape.gradient(loss, bijector.trainable_variables)

        outcomes.append(step(x))
    (loss, gradients), (same, recomputed) = outcomes
    np.testing.assert_allclose(same, loss, rtol=1e-5)
    for a, b in zip(gradients, recomputed, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * float(loss))
