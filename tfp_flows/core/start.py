"""Whether what depends on data has left its start."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Start(NamedTuple):
    """How a layer shows that it waits for its first data: no flag, and parameters still at 0.

    The variables of stacked layers begin with the shape of the flag.
    """

    flag: tf.Variable
    zeros: tuple[tf.Variable, ...]

    def waits(self) -> bool:
        """Whether it, or one of a stack, waits."""
        return not np.all(self.flag.numpy() | self._moved())

    def was_trained(self) -> bool:
        """Whether it, or one of a stack, has left its start without data."""
        return bool(np.any(~self.flag.numpy() & self._moved()))

    def _moved(self) -> np.ndarray:
        """For each of a stack, whether a parameter has left 0."""
        moved = np.zeros(self.flag.shape, bool)
        for variable in self.zeros:
            values = variable.numpy() != 0.0
            moved |= np.any(values, axis=tuple(range(moved.ndim, values.ndim)))
        return moved

    def is_left(self) -> tf.Tensor:
        """Whether a single layer does not wait, as a boolean tensor; in graphs too."""
        return tf.reduce_any([self.flag, *(tf.reduce_any(v != 0.0) for v in self.zeros)])
