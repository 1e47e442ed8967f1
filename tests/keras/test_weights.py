"""Sample weights, wherever Keras takes them: the loss is `mean(weight * nll)`, or an error."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows.keras_engine import keras

tfd = tfp.distributions

RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(6, 2)).astype("float32")
C = RANDOM.normal(size=(6, 1)).astype("float32")
W = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 1.5], "float32")
SHAPES = {
    "vector": W,
    "column": W[:, None],
    "list": W.tolist(),
    "whole": [[0], [1], [1], [2], [3], [1]],
}


class Batches(keras.utils.PyDataset if hasattr(keras.utils, "PyDataset") else keras.utils.Sequence):
    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


def compiled(**kwargs):
    model = flows.FlowModel(flows.real_nvp((2,), layers=2, hidden=(4,), **kwargs))
    model.compile(keras.optimizers.SGD(0.0))
    flows.initialize(model.flow, X, **({"context": C} if kwargs else {}))
    return model


@pytest.fixture(scope="module")
def plain():
    return compiled()


@pytest.fixture(scope="module")
def conditional():
    return compiled(context_shape=(1,))


def losses(model, x, weight):
    """The loss of weighted examples, by every method and kind of data of Keras."""
    context = isinstance(x, tuple)
    arrays = {"x": x[0], "context": x[1]} if context else x
    array = np.asarray(weight)
    data = tf.data.Dataset.from_tensors((arrays, np.zeros(6, "float32"), array))
    batch = (arrays, np.zeros(6, "float32"), array)

    def fitted(*args, name="loss", **kwargs):
        return model.fit(*args, verbose=0, **kwargs).history[name][0]

    def evaluated(*args, **kwargs):
        return model.evaluate(*args, verbose=0, return_dict=True, **kwargs)["loss"]

    yield "fit", fitted(x, sample_weight=weight, batch_size=6)
    yield "fit, Keras's pipeline", fitted(data.repeat(), steps_per_epoch=1)
    yield "fit, data set", fitted(data)
    yield "fit, generator", fitted((batch for _ in range(1)), steps_per_epoch=1)
    yield "fit, PyDataset", fitted(Batches(*batch))
    for validation in ((x, None, weight), (x, np.zeros(6), weight), data):
        yield "validation", fitted(x, validation_data=validation, name="val_loss")
    if context:
        yield "validation, flat", fitted(x, validation_data=(*x, weight), name="val_loss")
        flat = tf.data.Dataset.from_tensors((*x, array))
        yield "data set, flat", evaluated(flat)
    yield "evaluate", evaluated(x, sample_weight=weight)
    yield "evaluate, data set", evaluated(data)
    yield "evaluate, generator", evaluated((batch for _ in range(1)), steps=1)
    yield "train_on_batch", model.train_on_batch(x, sample_weight=weight, return_dict=True)["loss"]
    yield "test_on_batch", model.test_on_batch(x, None, weight, return_dict=True)["loss"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_gives_the_formula(plain, shape):
    weight = SHAPES[shape]
    expected = -np.mean(np.ravel(weight) * plain.log_prob(X))
    for way, loss in losses(plain, X, weight):
        np.testing.assert_allclose(loss, expected, rtol=1e-5, err_msg=way)  # a float32 sum


def test_with_contexts(conditional):
    expected = -np.mean(W * conditional.log_prob(X, context=C))
    for way, loss in losses(conditional, (X, C), W[:, None]):
        np.testing.assert_allclose(loss, expected, rtol=1e-5, err_msg=way)


def test_validation_split_and_lists_of_examples(plain):
    history = plain.fit(X.tolist(), sample_weight=W.tolist(), validation_split=0.5, verbose=0)
    for name, half in (("loss", slice(0, 3)), ("val_loss", slice(3, 6))):
        expected = -np.mean(W[half] * plain.log_prob(X[half]))
        np.testing.assert_allclose(history.history[name][0], expected, rtol=1e-5)
    np.testing.assert_allclose(plain.predict(X.tolist(), verbose=0), plain.log_prob(X), rtol=1e-5)


def test_in_double_precision():
    flow = tfd.Independent(tfd.Normal(tf.Variable(np.zeros(2)), np.float64(1.0)), 1)
    model = flows.FlowModel(flow)
    model.compile(keras.optimizers.SGD(0.0))
    x, weight = X.astype("float64"), W.astype("float64")[:, None] + 1e-12
    expected = -np.mean(weight[:, 0] * flow.log_prob(x))
    result = model.evaluate(x, sample_weight=weight, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(result, expected, rtol=1e-14)
    history = model.fit(x, validation_data=(x, None, weight), verbose=0).history
    np.testing.assert_allclose(history["val_loss"], expected, rtol=1e-14)


BAD = {
    "length": (np.ones(9), "6 examples in x, and 9 sample weights"),
    "short": ([1.0, 2.0], "6 examples in x, and 2 sample weights"),
    "row": (np.ones([1, 6]), r"shape \(n,\) or \(n, 1\).*got shape \(1, 6\)"),
    "matrix": (np.ones([6, 2]), r"got shape \(6, 2\)"),
    "scalar": (2.0, r"got shape \(\)"),
    "negative": ([1, 1, -1, 1, 1, 1], "1 of 6 sample weights are negative"),
    "nan": ([1, 1, math.nan, 1, math.inf, 1], "2 of 6 sample weights are negative, NaN"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_weights_of_arrays_are_named(plain, bad):
    weight, message = BAD[bad]
    for call in (
        lambda: plain.fit(X, sample_weight=weight, verbose=0),
        lambda: plain.fit(X, validation_data=(X, None, weight), verbose=0),
        lambda: plain.evaluate(X, sample_weight=weight, verbose=0),
        lambda: plain.train_on_batch(X, sample_weight=weight),
        lambda: plain.test_on_batch(X, sample_weight=weight),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_weights_of_data_sets_are_named(plain):
    def data(weight):
        return tf.data.Dataset.from_tensors((X, np.zeros(6), np.asarray(weight, "float32")))

    for bad in ("row", "matrix", "scalar"):
        with pytest.raises(ValueError, match=BAD[bad][1]):
            plain.fit(data(BAD[bad][0]), verbose=0)
    with pytest.raises(ValueError, match="6 examples, and 2 weights"):
        plain.fit(data(BAD["short"][0]), verbose=0)
    for bad in ("negative", "nan"):
        for use in (plain.fit, plain.evaluate):
            with pytest.raises(tf.errors.InvalidArgumentError, match="weights of a batch"):
                use(data(BAD[bad][0]), verbose=0)


def test_bad_weights_of_generators_are_named(plain):
    before = [v.numpy() for v in plain.flow.variables]
    for bad in ("negative", "nan"):
        weight = np.array(BAD[bad][0], "float32")
        with pytest.warns(UserWarning, match="1 of them hold sample weights that are negative"):
            plain.fit(((X, X[:, 0], weight) for _ in range(1)), steps_per_epoch=1, verbose=0)
        with pytest.raises(ValueError, match="hold sample weights that are negative"):
            plain.evaluate(Batches(X, X[:, 0], weight), verbose=0)
        with pytest.warns(UserWarning, match="validation data are at fault: 1 batch"):
            plain.fit(X, validation_data=Batches(X, X[:, 0], weight), verbose=0)
    for one, two in zip(before, plain.flow.variables, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="ample weights have"):
        plain.evaluate(Batches(X, X[:, 0], np.ones([6, 2], "float32")), verbose=0)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="there are"):
        plain.evaluate(Batches(X, X[:, 0], np.ones(2, "float32")), verbose=0)


def test_other_data_given_as_targets(plain, conditional):
    for model, x, said in (
        (plain, X, "build the flow with context_shape="),
        (conditional, (X, C), r"A context goes with x: \(x, context\)"),
        (conditional, X, r"A context goes with x: \(x, context\)"),
    ):
        for call in (
            lambda x=x, model=model: model.fit(x, C, verbose=0),
            lambda x=x, model=model: model.evaluate(x, C, verbose=0),
            lambda x=x, model=model: model.train_on_batch(x, C),
            lambda x=x, model=model: model.test_on_batch(x, C),
        ):
            with pytest.raises(ValueError, match=said):
                call()
    for model, x in ((plain, X), (conditional, (X, C))):
        with pytest.raises(ValueError, match=r"validation_data got targets.*\(x, None, weights\)"):
            model.fit(x, validation_data=(x, W), verbose=0)
    with pytest.raises(TypeError, match="built with context_shape="):
        plain.fit((X, C), verbose=0)


def test_unsupported_arguments(plain):
    for call in (plain.fit, plain.train_on_batch):
        with pytest.raises(ValueError, match="sample_weight="):
            call(X, class_weight={0: 1.0})
    with pytest.raises(ValueError, match=r"hold their own weights: \(x, y, weight\)"):
        plain.fit(tf.data.Dataset.from_tensors(X), sample_weight=W, verbose=0)
    with pytest.raises(NotImplementedError, match="half precision"):
        plain.quantize("int8")


def test_training_a_frozen_model_raises():
    model = compiled()
    model.trainable = False
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match=r"model\.trainable = True"):
            train(X)
    model.trainable = True
    model.fit(X, verbose=0)
