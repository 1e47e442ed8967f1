"""Whether what was written has the arrays and gives the values of the flow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import h5py
import numpy as np
import tensorflow as tf

SEEDED = "seeded_log_prob"  # the log_prob of a flow with all its noise from one seed


def check_arrays(variables: Mapping[str, tf.Variable], store: Mapping[str, np.ndarray]) -> None:
    """Checks that a file holds exactly these variables.

    Raises:
      ValueError: if names are missing or extra, or shapes or dtypes differ; the message lists them.
    """
    names = set(store)
    faults = [f"missing in the file: {name}" for name in sorted(set(variables) - names)]
    faults += [f"only in the file: {name}" for name in sorted(names - set(variables))]
    for name in sorted(names & set(variables)):
        array, variable = store[name], variables[name]
        for what, found, expected in (
            ("shape", tuple(array.shape), tuple(variable.shape)),
            ("dtype", tf.as_dtype(array.dtype).name, variable.dtype.name),
        ):
            if found != expected:
                faults.append(f"{what} of {name}: {found} in the file, {expected} in the flow")
    if faults:
        shown = "\n  ".join(faults[:20]) + ("\n  ..." if len(faults) > 20 else "")
        raise ValueError(
            f"The file does not fit the flow, and nothing was loaded ({len(faults)} "
            f"difference(s)). Build the flow with the arguments it was saved with.\n  {shown}"
        )


def load_arrays(variables: Mapping[str, tf.Variable], store: Mapping[str, np.ndarray]) -> None:
    """Assigns every array to its variable, after `check_arrays`."""
    arrays = {name: store[name] for name in store.keys()}  # noqa: SIM118, Keras's is not a dict
    check_arrays(variables, arrays)
    for name, variable in variables.items():
        variable.assign(arrays[name])


def verify_arrays(variables: Mapping[str, tf.Variable], store: Mapping[str, np.ndarray]) -> None:
    """Verifies that a file holds the values of these variables.

    Raises:
      ValueError: if names, shapes or dtypes differ.
      RuntimeError: if a value differs.
    """
    check_arrays(variables, store)
    for name, variable in variables.items():
        found, expected = np.asarray(store[name]), variable.numpy()
        if not np.array_equal(found, expected, equal_nan=variable.dtype.is_floating):
            raise RuntimeError(f"The file was written, but {name} reads back differently.")


def verify_weights_file(variables: Mapping[str, tf.Variable], path: str | os.PathLike) -> None:
    """Reads a `.weights.h5` file back, and raises as `verify_arrays` does."""
    with h5py.File(path, "r") as file:
        verify_arrays(variables, {name: array[()] for name, array in file["vars"].items()})


class ReferenceValues(NamedTuple):
    """Values that a function of a flow gives, and must give again when it is read back."""

    name: str
    arguments: dict[str, tf.Tensor]
    values: np.ndarray

    def verify(self, restored: Callable, what: str) -> None:
        """Calls the function that was read back.

        Args:
          restored: a function of `arguments`; it returns values, or `{name: values}`.
          what: the kind of file, for the message.

        Raises:
          RuntimeError: if it gives other values.
        """
        found = restored(**self.arguments)
        found = np.asarray(found[self.name] if isinstance(found, dict) else found)
        if not np.allclose(self.values, found, rtol=1e-4, atol=1e-4, equal_nan=True):
            gap = float(np.max(np.abs(self.values - found)))
            raise RuntimeError(
                f"{what} was written, but what is read back differs by {gap:.3g} in {self.name}. "
                "It was discarded; what was there before is untouched."
            )


def reference_values(
    functions: Mapping[str, Callable], examples: Mapping[str, tf.Tensor]
) -> ReferenceValues | None:
    """Values of the first function that gives the same ones twice; None if none does.

    Args:
      functions: candidates by name, the most telling first. One named `SEEDED` is given a seed.
      examples: arguments of all of them.
    """
    for name, function in functions.items():
        seed = {"seed": tf.constant([0, 1])} if name == SEEDED else {}
        arguments = {**seed, **examples}
        once, twice = (function(**arguments).numpy() for _ in range(2))
        if np.array_equal(once, twice, equal_nan=True):
            return ReferenceValues(name, arguments, once)
    return None
