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
        left = self.flag.numpy()
        for variable in self.zeros:
            moved = variable.numpy() != 0.0
            left = left | np.any(moved, axis=tuple(range(left.ndim, moved.ndim)))
        return not np.all(left)

    def is_left(self) -> tf.Tensor:
        """Whether a single layer does not wait, as a boolean tensor; in graphs too."""
        return tf.reduce_any([self.flag, *(tf.reduce_any(v != 0.0) for v in self.zeros)])
