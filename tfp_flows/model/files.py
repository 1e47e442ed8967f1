"""How a `FlowModel` is written to files and read from them: complete, or with an error."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import saving
from tfp_flows.core import variable_paths
from tfp_flows.core.variables import restored_on_error
from tfp_flows.keras_engine import keras
from tfp_flows.model.inference import Inference
from tfp_flows.model.signatures import reference_candidates, signatures

tfd = tfp.distributions


class Files:
    """Writes a flow by Keras's own writers, and verifies what they have written.

    Args:
      flow: the distribution.
      inference: its functions, whose values are compared with those of what is read back.
      state: returns all variables that a weights file may hold or change, by name.
    """

    def __init__(
        self,
        flow: tfd.Distribution,
        inference: Inference,
        state: Callable[[], dict[str, tf.Variable]],
    ):
        self._flow = flow
        self._inference = inference
        self._state = state

    def save(self, write: Callable[[str], Any], path: str | os.PathLike, overwrite: bool) -> None:
        """Has Keras `write` a `.keras` file; see `FlowModel.save`."""
        _validate_ending(path, ".keras")
        with saving.atomic_write(path, overwrite, self._verify_keras_file) as draft:
            write(str(draft))
            saving.add_checksum_to_keras_file(draft)

    def _verify_keras_file(self, path: Path) -> None:
        loaded = keras.saving.load_model(str(path), compile=False).flow
        saving.verify_arrays(
            variable_paths(self._flow),
            {name: v.numpy() for name, v in variable_paths(loaded).items()},
        )
        candidates = self._inference.reference_candidates()
        reference = saving.reference_values(candidates, self._inference.examples())
        if reference:
            restored = Inference(loaded).reference_candidates()[reference.name]
            reference.verify(restored, "The .keras file")

    def save_weights(
        self, write: Callable[[str], Any], path: str | os.PathLike, overwrite: bool
    ) -> None:
        """Has Keras `write` a `.weights.h5` file; see `FlowModel.save_weights`."""
        _validate_ending(path, ".weights.h5")
        with saving.atomic_write(path, overwrite, self._verify_weights_file) as draft:
            saving.reserve(draft, self._size_on_disk())
            write(str(draft))
            saving.add_checksum(draft)

    def _verify_weights_file(self, path: Path) -> None:
        saving.verify_weights_file(variable_paths(self._flow), path)

    def _size_on_disk(self) -> int:
        header = 2048  # more than HDF5 needs to describe an array
        return sum(header + math.prod(v.shape) * v.dtype.size for v in self._state().values())

    def load_weights(self, read: Callable[[str], Any], path: str | os.PathLike) -> None:
        """Has Keras `read` a file; see `FlowModel.load_weights`."""
        saving.validate_checksum(path)  # before Keras loads what it can of it
        with restored_on_error(self._state().values()):
            read(str(path))

    def export(
        self,
        path: str | os.PathLike,
        format: str,
        signature: str,
        pixel_dtype: str | tf.DType | None,
    ) -> None:
        """See `FlowModel.export`."""
        if format not in ("tf_saved_model", "onnx"):
            raise ValueError(
                f"The format must be 'tf_saved_model' or 'onnx', got {format!r}. For TensorFlow "
                "Lite, convert the SavedModel with tf.lite.TFLiteConverter.from_saved_model."
            )
        functions = self._inference.functions()
        if pixel_dtype is not None:
            functions = signatures(self._flow, pixel_dtype)
        examples = self._inference.examples()
        examples["x"] = tf.cast(examples["x"], functions["log_prob"].input_signature[0].dtype)
        if format == "onnx":
            _validate_ending(path, ".onnx")
            saving.export_onnx(self._flow, functions, signature, path, examples)
        else:
            candidates = reference_candidates(self._flow, functions)
            saving.export_saved_model(self._flow, functions, candidates, path, examples)


def _validate_ending(path: str | os.PathLike, ending: str) -> None:
    if not str(path).endswith(ending):
        raise ValueError(f"The name of this file must end in {ending}, got {str(path)!r}.")
