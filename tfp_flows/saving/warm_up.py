"""What TensorFlow Serving replays when it loads a model, so that the first request is not slow.

The records are `tensorflow.serving.PredictionLog` messages. They are encoded here, in a few lines,
because the package that defines them would be a heavy dependency.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

WARM_UP = "assets.extra/tf_serving_warmup_requests"  # where TensorFlow Serving looks


def write_warm_up(
    folder: Path, model: str, requests: Mapping[str, Mapping[str, tf.Tensor]]
) -> None:
    """Writes one request for each signature into a SavedModel.

    Args:
      folder: the SavedModel.
      model: name of the model; TensorFlow Serving replays to the model that it loads, whatever
        its name.
      requests: `{signature: {argument: tensor}}`.
    """
    path = folder / WARM_UP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            writer.write(_prediction_log(model, signature, inputs))


def _prediction_log(model: str, signature: str, inputs: Mapping[str, tf.Tensor]) -> bytes:
    """Every part is `_field(its number in the .proto file, its content)`."""
    model_spec = _field(1, model.encode()) + _field(3, signature.encode())
    predict_request = _field(1, model_spec)
    for name, tensor in inputs.items():
        content = tf.make_tensor_proto(tensor).SerializeToString()
        predict_request += _field(2, _field(1, name.encode()) + _field(2, content))
    predict_log = _field(1, predict_request)
    return _field(6, predict_log)


def _field(number: int, content: bytes) -> bytes:
    """A string, bytes or message in protobuf's wire format: key, length, content."""
    key, length = bytes([number << 3 | 2]), len(content)
    head = bytearray()
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return key + bytes(head) + bytes([length]) + content
