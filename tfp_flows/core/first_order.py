"""Gradients that have no gradient: asking for it is an error, and no wrong number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

Results = list[tf.Tensor]


def differentiable_once(function: Callable[..., Results], message: str, *sources) -> Results:
    """What `function(*sources)` gives, whose own gradient is an error when it is computed.

    For what a gradient is made of. It also spares TensorFlow the gradients of gradients that it
    prepares wherever an eager tape is persistent, which takes many seconds for a loop.

    Args:
      function: the computation.
      message: what the error says.
      sources: tensors that it depends on.

    Raises:
      tf.errors.InvalidArgumentError: from a second gradient that is not 0. (XLA has no errors:
        NaN there.)
    """

    @tf.custom_gradient
    def run(*sources):
        def gradient(*d_results):
            unused = tf.reduce_all([tf.reduce_all(tf.equal(d, 0.0)) for d in d_results])
            with tf.control_dependencies([tf.debugging.Assert(unused, [message])]):
                zero = tf.where(unused, 0.0, np.nan)
            return [tf.fill(tf.shape(s), tf.cast(zero, s.dtype)) for s in sources]

        return function(*sources), gradient

    # Copies, which belong to this graph: a second gradient in a loop finds no others.
    return run(*map(tf.identity, sources))
