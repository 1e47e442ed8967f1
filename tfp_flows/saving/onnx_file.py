"""A function of a flow as an ONNX file, which ONNX Runtime runs before it is kept."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.saving.atomic import atomic_write
from tfp_flows.saving.export import write_saved_model
from tfp_flows.saving.verification import ReferenceValues

tfd = tfp.distributions

_CONVERTER = Path(__file__).with_name("onnx_converter.py")


def export_onnx(
    flow: tfd.Distribution,
    functions: Mapping[str, Callable],
    name: str,
    path: str | os.PathLike,
    examples: Mapping[str, tf.Tensor],
) -> None:
    """Writes one function as an ONNX file, runs it, compares, and only then moves it to `path`.

    Args:
      flow: the distribution.
      functions: `tf.function`s by name, each with an input signature.
      name: of the function, and of the file's one output.
      path: the file to make or replace.
      examples: arguments of `log_prob`, by name, to compare values on.

    Raises:
      ImportError: if onnxruntime or tf2onnx is missing.
      ValueError: if there is no such function, or it cannot be converted; the message says why.
      RuntimeError: if what was read back gives other values.
    """
    if name not in functions or name == "sample":
        names = ", ".join(repr(n) for n in functions if n != "sample")
        raise ValueError(
            f"An ONNX file holds one of {names}, got {name!r}. For samples, draw latents and "
            "decode them: ONNX has no random numbers from a given seed."
        )
    missing = [p for p in ("onnxruntime", "tf2onnx") if not _is_installed(p)]
    if missing:
        raise ImportError(
            f'An export to ONNX needs {" and ".join(missing)}: pip install "tfp_flows[onnx]".'
        )
    function = functions[name]
    values = dict(examples)
    if name == "decode":
        values["z"] = functions["encode"](**examples)
    arguments = {spec.name: values[spec.name] for spec in function.input_signature}
    reference = ReferenceValues(name, arguments, function(**arguments).numpy())

    def verify(draft: Path) -> None:
        reference.verify(lambda **tensors: _run(draft, name, tensors), "The ONNX file")

    with atomic_write(path, verify=verify) as draft:
        _convert(flow, function, name, draft)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _convert(flow: tfd.Distribution, function: Callable, name: str, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_saved_model(flow, {name: function}, folder)
        command = [sys.executable, "-c", _CONVERTER.read_text(), folder, name, path.resolve()]
        no_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, cwd=folder, env=no_gpu, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the converter was killed"])[-1]
        raise ValueError(
            f"{name} of this flow cannot be converted to ONNX: {reason}. Export a SavedModel, or "
            "another signature."
        )


def _run(path: Path, name: str, tensors: Mapping[str, tf.Tensor]) -> np.ndarray:
    import onnxruntime  # an optional dependency

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([name], {k: v.numpy() for k, v in tensors.items()})[0]
