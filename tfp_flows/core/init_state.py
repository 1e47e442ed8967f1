"""Data-dependent initialisation: which layers have had it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class InitState(NamedTuple):
    """Whether a data-dependent layer is initialised: its flag is set, or it has left its start.

    Attributes:
      flag: a boolean variable; that of stacked layers is `[count]`.
      zeros: variables that are 0 until the layer is initialised, trained, assigned or loaded; those
        of stacked layers begin with the dimensions of the flag.
    """

    flag: tf.Variable
    zeros: tuple[tf.Variable, ...]

    def is_pending(self) -> bool:
        """Whether the layer, or one of a stack, is not initialised."""
        done = self.flag.numpy()
        for variable in self.zeros:
            moved = variable.numpy() != 0.0
            done = done | np.any(moved, axis=tuple(range(done.ndim, moved.ndim)))
        return not np.all(done)

    def is_done(self) -> tf.Tensor:
        """Whether a single layer is initialised, as a boolean tensor; in graphs too."""
        return tf.reduce_any([self.flag, *(tf.reduce_any(v != 0.0) for v in self.zeros)])


def init_states_in(modules: Iterable[tf.Module]) -> Iterator[InitState]:
    """The states of data-dependent initialisation of the bijectors among `modules`."""
    return (state for m in modules if hasattr(m, "_init_states") for state in m._init_states())
