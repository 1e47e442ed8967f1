"""How a `FlowModel` goes to disk and comes back: complete, or with an error."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tfp_flows import saving
from tfp_flows.core import private, variable_paths
from tfp_flows.core.variables import restored_on_error
from tfp_flows.keras_engine import keras
from tfp_flows.model import loss_scaling as precision
from tfp_flows.model.signatures import provable, signatures
from tfp_flows.version import __version__


class FlowFiles:
    """The part of `FlowModel` that reads and writes files."""

    def get_config(self) -> dict:
        return {
            "format": saving.FORMAT,
            "tfp_flows": __version__,
            "name": self.name,
            "flow": saving.to_config(self._flow),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        saving.check_format(config.get("format"), config.get("tfp_flows"))
        with keras.saving.custom_object_scope(custom_objects or {}):
            return cls(saving.from_config(config["flow"]), name=config["name"])

    def save_own_variables(self, store):
        for name, variable in variable_paths(self._flow).items():
            store[name] = variable.numpy()

    def load_own_variables(self, store):
        saving.check_store(store)
        self._is_initialized = False  # until the flags that were loaded say so
        saving.load_arrays(variable_paths(self._flow), store)

    def save(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """Writes a `.keras` file, loads it again, and compares log-probabilities.

        Folders that lead to it are made. Where `log_prob` draws noise, it is compared under one
        seed.

        Raises:
          ValueError: the name does not end in `.keras`, or the path is not local.
          TypeError: a part of the flow cannot be described, as an unregistered function; the
            message names it.
          RuntimeError: what was read back differs; the file is not kept.
          OSError: the file cannot be written, as on a full disk; what was there stays.
        """
        _check_ending(filepath, ".keras")
        with saving.atomic_write(filepath, overwrite, self._verify_keras_file) as draft:
            super().save(str(draft), **kwargs)
            saving.add_checksum_to_keras_file(draft)

    def _verify_keras_file(self, path: Path) -> None:
        loaded = keras.saving.load_model(str(path), compile=False)
        saving.verify_arrays(
            variable_paths(self._flow),
            {name: v.numpy() for name, v in variable_paths(loaded.flow).items()},
        )
        reference = saving.reference_values(self._provable(), self._probe())
        if reference:
            reference.verify(loaded._provable()[reference.name], "The .keras file")

    def _provable(self) -> dict[str, Callable]:
        return provable(self._flow, self._all_functions())

    def save_weights(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """Writes a `.weights.h5` file whose names are the flow's own paths, and checks it."""
        _check_ending(filepath, ".weights.h5")
        with saving.atomic_write(filepath, overwrite, self._verify_weights_file) as draft:
            saving.reserve(draft, self._size_on_disk())
            super().save_weights(str(draft), **kwargs)
            saving.add_checksum(draft)

    def _verify_weights_file(self, path: Path) -> None:
        saving.verify_weights_file(variable_paths(self._flow), path)

    def _whole_state(self) -> list[tf.Variable]:
        """All that a training goes on from: of the flow, the optimizer and the run."""
        of_optimizer = getattr(getattr(self, "optimizer", None), "variables", ())
        of_optimizer = of_optimizer() if callable(of_optimizer) else of_optimizer
        of_optimizer = [private.tf_variable(v) for v in of_optimizer]
        return [*self._flow.variables, *of_optimizer, *self.run_state.by_name.values()]

    def _loss_scale(self) -> dict[str, tf.Variable]:
        return precision.scale_state(getattr(self, "optimizer", None))

    def _size_on_disk(self) -> int:
        header = 2048  # more than HDF5 needs to describe an array
        return sum(header + math.prod(v.shape) * v.dtype.size for v in self._whole_state())

    def load_weights(self, filepath, skip_mismatch: bool = False, **kwargs) -> None:
        """Reads a `.weights.h5` or `.keras` file, wholly or not at all.

        Raises:
          ValueError: names, shapes or dtypes differ, which the message lists, or the file is
            damaged or of another format; nothing is changed. Or `skip_mismatch` is asked for.
        """
        if skip_mismatch:
            raise ValueError(
                "The weights of a flow are loaded wholly or not at all: leave skip_mismatch out. "
                "To take over a part, assign the variables of one flow to those of the other."
            )
        saving.validate_checksum(filepath)  # before Keras loads what it can of it
        with restored_on_error(self._whole_state()):
            super().load_weights(str(filepath), **kwargs)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        *,
        signature: str = "log_prob",
        pixel_dtype: str | tf.DType | None = None,
    ) -> None:
        """Writes a SavedModel that needs neither tfp_flows nor TFP, and proves it by reading it.

        Signatures: `serving_default` and `log_prob(x)`, `sample(n, seed, temperature)`,
        `encode(x)`, `decode(z)`, each with an open batch size and one output of its own name.
        The loaded object also has them as methods. With them comes a request for each, which
        TensorFlow Serving replays to be warm, and the digests that `flows.verify` checks.

        Or writes one of `log_prob`, `encode` and `decode` as an ONNX file, and proves it by running
        it with ONNX Runtime. That needs `pip install "tfp_flows[onnx]"`.

        Args:
          filepath: the folder to make or replace, or the `.onnx` file; folders that lead to it are
            made.
          format: `"tf_saved_model"` or `"onnx"`.
          verbose: as Keras has it; nothing is printed.
          signature: the function that an ONNX file holds.
          pixel_dtype: of the pixels that the signatures of a `flows.Dequantized` take and give, as
            `"uint8"`; None: int32.

        Raises:
          ImportError: the packages for ONNX are missing.
          ValueError: another format or signature; a path that is not local; a function that
            cannot be converted to ONNX; a `pixel_dtype` for a flow without pixels, or one that
            cannot hold its levels.
          RuntimeError: what was read back differs; it is not kept.
          OSError: it cannot be written, as on a full disk; what was there stays.
        """
        if format not in ("tf_saved_model", "onnx"):
            raise ValueError(
                f"The format must be 'tf_saved_model' or 'onnx', got {format!r}. For TensorFlow "
                "Lite, convert the SavedModel with tf.lite.TFLiteConverter.from_saved_model."
            )
        functions = self._all_functions()
        if pixel_dtype is not None:
            functions = signatures(self._flow, pixel_dtype)
        probe = self._probe()
        probe["x"] = tf.cast(probe["x"], functions["log_prob"].input_signature[0].dtype)
        if format == "tf_saved_model":
            candidates = provable(self._flow, functions)
            saving.export_saved_model(self._flow, functions, candidates, filepath, probe)
        else:
            _check_ending(filepath, ".onnx")
            saving.export_onnx(self._flow, functions, signature, filepath, probe)


def _check_ending(path: str | os.PathLike, ending: str) -> None:
    if not str(path).endswith(ending):
        raise ValueError(f"The name of this file must end in {ending}, got {str(path)!r}.")
