"""A loop over the steps of a stack: one `tf.while_loop`, or every step in the graph."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


class Loop:
    """Runs a body `count` times, and holds one tensor a step.

    Args:
      count: how many steps.
      unroll: whether Python runs the loop, and every step gets a place in the graph.
    """

    def __init__(self, count: int, unroll: bool):
        self._count = count
        self._unroll = unroll

    def run(self, body: Callable[..., tuple], *values) -> tuple:
        """Calls `values = body(n, *values)` for every step; returns the last values."""
        values = (0, *values)
        if self._unroll:
            for _ in range(self._count):
                values = body(*values)
        else:
            values = tf.while_loop(
                lambda n, *_: n < self._count, body, values, maximum_iterations=self._count
            )
        return values[1:]

    def array(self, like: tf.Variable):
        """An empty array with methods `write(n, tensor)` and `stack()`, for slices of `like`."""
        if self._unroll:
            return _ListArray([None] * self._count)
        return tf.TensorArray(
            like.dtype, self._count, clear_after_read=False, element_shape=like.shape[1:]
        )

    def unstacked(self, variable: tf.Variable):
        """An array with a method `read(n)`, of a stacked variable."""
        # Not gathered: the gradient of a read has the size of one step, that of a gather of all.
        if self._unroll:
            return _ListArray(tf.unstack(variable))
        return self.array(variable).unstack(variable)


class _ListArray:
    """What a `tf.TensorArray` does, for a loop that is unrolled."""

    def __init__(self, items: list):
        self._items = items

    def read(self, n: int) -> tf.Tensor:
        return self._items[n]

    def write(self, n: int, value: tf.Tensor) -> _ListArray:
        self._items[n] = value
        return self

    def stack(self) -> tf.Tensor:
        return tf.stack(self._items)
