"""Whether what was written gives the values that the flow gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.saving.signatures import seeded_log_prob

tfd = tfp.distributions

SEEDED = "seeded_log_prob"


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


def provable(flow: tfd.Distribution, functions: Mapping[str, Callable]) -> dict[str, Callable]:
    """The functions that can tell two flows apart, the most telling first.

    Args:
      flow: the distribution.
      functions: what `signatures(flow)` gave.
    """
    log_prob = functions["log_prob"]
    by_name = {"log_prob": log_prob, SEEDED: seeded_log_prob(flow, log_prob.input_signature)}
    return by_name | ({"encode": functions["encode"]} if "encode" in functions else {})


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
