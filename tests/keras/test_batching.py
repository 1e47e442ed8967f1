"""The SavedModel under TensorFlow Serving: its warm-up, and its batching of requests.

The rules are those of tensorflow_serving/batching/batching_session.cc and of
servables/tensorflow/saved_model_warmup.cc (version 2.21), restated here in a few lines. Runs under
Keras 3 and tf_keras.
"""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from served_flows import FLOWS
from test_served_inputs import valid_arguments

EVERY = pytest.mark.parametrize("name", FLOWS)


class BatchingSession:
    """Joins requests along dimension 0, runs them as one, and splits the answer."""

    def __init__(self, signatures, max_batch_size=1000):
        self._signatures = signatures
        self._limit = max_batch_size

    def run(self, signature, *requests):
        sizes = [self._size(request) for request in requests]
        joined = {}
        for name in requests[0]:
            tensors = [request[name] for request in requests]
            assert len({tuple(t.shape[1:]) for t in tensors}) == 1, "different shapes"
            joined[name] = tf.concat(tensors, 0)
        (output,) = self._signatures[signature](**joined).values()
        assert output.shape.rank > 0 and output.shape[0] == sum(sizes), "not one answer for a row"
        return tf.split(output, sizes)

    def _size(self, request):
        assert all(tensor.shape.rank > 0 for tensor in request.values()), "a scalar"
        (size,) = {tensor.shape[0] for tensor in request.values()}
        assert 0 < size <= self._limit
        return size


def prediction_log_class():
    """The message as TensorFlow Serving's `.proto` files define it, built here at run time."""
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="serving", syntax="proto3")
    file.dependency.append("tensorflow/core/framework/tensor.proto")
    layout = {
        "ModelSpec": [("name", 1, None), ("signature_name", 3, None)],
        "Inputs": [("key", 1, None), ("value", 2, ".tensorflow.TensorProto")],
        "PredictRequest": [
            ("model_spec", 1, ".serving.ModelSpec"),
            ("inputs", 2, ".serving.Inputs"),
        ],
        "PredictLog": [("request", 1, ".serving.PredictRequest")],
        "PredictionLog": [("predict_log", 6, ".serving.PredictLog")],
    }
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            repeated = field == "inputs"  # a map is a list of entries on the wire
            message.field.add(
                name=field,
                number=number,
                label=3 if repeated else 1,
                type=11 if kind else 9,
                type_name=kind,
            )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("serving.PredictionLog"))


@pytest.fixture(scope="module")
def prediction_log():
    return prediction_log_class()


@EVERY
def test_warm_up_requests_run(name, served, prediction_log):
    it = served(name)
    path = it.folder / "assets.extra" / "tf_serving_warmup_requests"
    session = BatchingSession(it.signatures, max_batch_size=1)  # the smallest that can be set
    warmed = []
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == it.model.flow.name
        signature = it.signatures[request.model_spec.signature_name]
        inputs = {entry.key: tf.constant(tf.make_ndarray(entry.value)) for entry in request.inputs}
        expected = signature.structured_input_signature[1]
        assert set(inputs) == set(expected)
        for key, value in inputs.items():
            assert expected[key].is_compatible_with(value)
        (output,) = session.run(request.model_spec.signature_name, inputs)
        assert output.shape[0] == 1 and np.isfinite(output).all()
        warmed.append(request.model_spec.signature_name)
    assert sorted(warmed) == sorted(it.signatures)


@EVERY
def test_joined_requests_get_their_own_answers(name, served):
    it = served(name)
    session = BatchingSession(it.signatures)
    for signature, function in it.signatures.items():
        whole = batchable_arguments(it, signature)
        parts = [{k: v[i:j] for k, v in whole.items()} for i, j in ((0, 1), (1, 4))]
        answers = session.run(signature, *parts)
        for part, answer in zip(parts, answers, strict=True):
            (alone,) = function(**part).values()
            assert answer.shape == alone.shape
            if (name, signature) not in (("pixels", "log_prob"), ("pixels", "serving_default")):
                np.testing.assert_allclose(answer, alone, rtol=1e-4, atol=1e-4)


def batchable_arguments(it, signature):
    """Arguments as `valid_arguments` gives them, with one seed and temperature for each row."""
    changed = {
        "n": tf.ones([4], tf.int32),
        "seed": tf.constant([[1, 2], [1, 2], [3, 4], [5, 6]]),
        "temperature": tf.constant([1.0, 0.0, 0.5, 2.0]),
    }
    return {k: changed.get(k, v) for k, v in valid_arguments(it, signature).items()}


@EVERY
def test_each_of_many_seeds_gives_the_sample_that_it_gives_alone(name, served):
    it = served(name)
    rows = batchable_arguments(it, "sample")
    (samples,) = it.signatures["sample"](**rows).values()
    for i, sample in enumerate(samples):
        own = {k: v[i] for k, v in rows.items() if k != "context"}
        own |= {k: v[i : i + 1] for k, v in rows.items() if k == "context"}
        (alone,) = it.signatures["sample"](**own).values()
        np.testing.assert_allclose(sample, alone[0], rtol=1e-5, atol=1e-5)
