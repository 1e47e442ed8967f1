"""Whether what was written gives the arrays and values that the flow gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import h5py
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp


def check_arrays(variables: Mapping[str, tf.Variable], store: Mapping[str, np.ndarray]) -> None:
    """Checks that a file holds just these variables.

    Raises:
      ValueError: names are missing or extra, or shapes or dtypes differ; the message lists them.
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
    arrays = {name: store[name] for name in store.keys()}  # noqa: SIM118, Keras's is no dict
    check_arrays(variables, arrays)
    for name, variable in variables.items():
        variable.assign(arrays[name])


def verify_weights_file(variables: Mapping[str, tf.Variable], path: str | os.PathLike) -> None:
    """Reads a `.weights.h5` file back and compares every array.

    Raises:
      ValueError: names or shapes differ.
      RuntimeError: a value differs.
    """
    with h5py.File(path, "r") as file:
        store = {name: np.asarray(array) for name, array in file["vars"].items()}
    verify_arrays(variables, store)


def verify_arrays(variables: Mapping[str, tf.Variable], store: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError or RuntimeError unless `store` holds these very values."""
    check_arrays(variables, store)
    for name, variable in variables.items():
        found, expected = np.asarray(store[name]), variable.numpy()
        if not np.array_equal(found, expected, equal_nan=variable.dtype.is_floating):
            raise RuntimeError(f"The file was written, but {name} reads back differently.")


tfd = tfp.distributions

SEEDED = "seeded_log_prob"  # of a flow, with all its noise from one seed


class Proof(NamedTuple):
    """Values of a flow that whatever is read back must give too."""

    name: str
    arguments: dict[str, tf.Tensor]
    values: np.ndarray

    def check(self, restored: Callable, what: str) -> None:
        """Raises RuntimeError unless the function that was read back gives these values."""
        found = restored(**self.arguments)
        found = np.asarray(found[self.name] if isinstance(found, dict) else found)
        if not np.allclose(self.values, found, rtol=1e-4, atol=1e-4, equal_nan=True):
            gap = float(np.max(np.abs(self.values - found)))
            raise RuntimeError(
                f"{what} was written, but what is read back differs by {gap:.3g} in {self.name}. "
                "It was discarded; what was there before is untouched."
            )


def prove(functions: Mapping[str, Callable], probe: Mapping[str, tf.Tensor]) -> Proof | None:
    """Calls the first function that gives the same values twice.

    That is `log_prob`, unless it draws noise; then `log_prob` with its noise from one seed; and
    where a part of the flow draws numbers of its own, `encode`. None if there is no such function.

    Args:
      functions: what `provable(flow)` gave.
      probe: examples, by the names of `log_prob`'s arguments.
    """
    for name, function in functions.items():
        seed = {"seed": tf.constant([0, 1])} if name == SEEDED else {}
        arguments = {**seed, **probe}
        once, twice = (function(**arguments).numpy() for _ in range(2))
        if np.array_equal(once, twice, equal_nan=True):
            return Proof(name, arguments, once)
    return None
