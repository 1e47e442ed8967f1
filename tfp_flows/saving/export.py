"""The flow as a SavedModel that needs neither this package nor TFP."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.saving.atomic import atomic_write
from tfp_flows.saving.checksum import add_checksums_to_folder
from tfp_flows.saving.verification import reference_values, verify_arrays

tfd = tfp.distributions

_WARM_UP = "assets.extra/tf_serving_warmup_requests"  # where TensorFlow Serving looks


def export_saved_model(
    flow: tfd.Distribution,
    functions: Mapping[str, Callable],
    candidates: Mapping[str, Callable],
    path: str | os.PathLike,
    examples: Mapping[str, tf.Tensor],
) -> None:
    """Writes a SavedModel, reads it back, compares, and only then moves it to `path`.

    Args:
      flow: the distribution.
      functions: `tf.function`s by name, each with an input signature; they are served.
      candidates: functions whose values are compared; see `reference_values`.
      path: the folder to make or replace.
      examples: arguments of `log_prob`, by name.

    Raises:
      RuntimeError: if what was read back gives other values.
    """
    reference = reference_values(candidates, examples)
    methods = {} if reference is None else {reference.name: candidates[reference.name]}

    def verify(draft: Path) -> None:
        loaded = tf.saved_model.load(str(draft))
        verify_arrays(
            dict(enumerate(flow.variables)),
            {i: v.numpy() for i, v in enumerate(loaded.variables_of_flow)},
        )
        if reference:
            restored = loaded.signatures.get(reference.name) or getattr(loaded, reference.name)
            reference.verify(restored, "The SavedModel")

    with atomic_write(path, verify=verify) as draft:
        write_saved_model(flow, functions, draft, methods)
        _write_warm_up(draft, flow.name, _requests(functions, examples))
        add_checksums_to_folder(draft)


def write_saved_model(
    flow: tfd.Distribution,
    functions: Mapping[str, Callable],
    folder: str | os.PathLike,
    methods: Mapping[str, Callable] | None = None,
) -> None:
    """Writes a SavedModel with these functions as signatures and methods, without any check.

    Args:
      flow: the distribution.
      functions: `tf.function`s with input signatures; `log_prob` is `serving_default` as well.
      folder: where to write.
      methods: further functions, which become methods only.
    """
    module = tf.Module()
    module.variables_of_flow = list(flow.variables)
    for name, function in {**(methods or {}), **functions}.items():
        setattr(module, name, function)
    served = {
        name: _with_named_output(function, name).get_concrete_function()
        for name, function in functions.items()
    }
    if "log_prob" in served:
        served = {"serving_default": served["log_prob"], **served}
    tf.saved_model.save(module, str(folder), served)


def _with_named_output(function: Callable, name: str) -> Callable:
    @tf.function(input_signature=function.input_signature)
    def named(*args: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: function(*args)}

    return named


def _requests(
    functions: Mapping[str, Callable], examples: Mapping[str, tf.Tensor]
) -> dict[str, dict[str, tf.Tensor]]:
    """Arguments for every signature: one example, which fits into a batch of any size."""
    values = {
        **{name: tensor[:1] for name, tensor in examples.items()},
        "n": tf.constant([1]),
        "seed": tf.constant([[0, 0]]),
        "temperature": tf.constant([1.0]),
    }
    if "encode" in functions:
        values["z"] = functions["encode"](**{name: values[name] for name in examples})
    functions = {"serving_default": functions["log_prob"], **functions}
    return {
        name: {spec.name: values[spec.name] for spec in function.input_signature}
        for name, function in functions.items()
    }


def _write_warm_up(
    folder: Path, model: str, requests: Mapping[str, Mapping[str, tf.Tensor]]
) -> None:
    """Writes one request for each signature into a SavedModel.

    Args:
      folder: the SavedModel.
      model: any name; TensorFlow Serving sends the requests to the model that it loads.
      requests: `{signature: {argument: tensor}}`.
    """
    path = folder / _WARM_UP
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            writer.write(_prediction_log(model, signature, inputs))


def _prediction_log(model: str, signature: str, inputs: Mapping[str, tf.Tensor]) -> bytes:
    """A `PredictionLog` of TensorFlow Serving, whose protobuf classes are another package.

    Every part is `_field(its number in the .proto file, its content)`.
    """
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
