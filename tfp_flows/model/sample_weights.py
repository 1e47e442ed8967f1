"""Sample weights: one number for each example, finite and 0 or more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

_EXPECTED = "Sample weights have shape (n,) or (n, 1), one number for each example"


def checked_weight(weight: Any, count: int) -> np.ndarray:
    """The sample weights of `count` examples as a vector.

    Args:
      weight: an array or list of shape [count] or [count, 1].
      count: the number of examples.

    Raises:
      TypeError: if they are not numbers.
      ValueError: if the shape or the length differs, or a weight is negative, NaN or infinite.
    """
    try:
        weight = np.asarray(weight)
    except ValueError as error:
        raise ValueError(f"{_EXPECTED}: {error}") from error
    if weight.dtype.kind not in "fiub":
        raise TypeError(f"Sample weights are numbers, got {weight.dtype}.")
    _check_shape(weight.shape)
    if len(weight) != count:
        raise ValueError(f"There are {count} examples in x, and {len(weight)} sample weights.")
    weight = weight.reshape([count])
    bad = int((~np.isfinite(weight) | (weight < 0)).sum())
    if bad:
        raise ValueError(f"{bad} of {count} sample weights are negative, NaN or infinite.")
    return weight if weight.dtype.kind == "f" else weight.astype("float32")


def weight_vector(weight: Any, x: Any) -> tf.Tensor:
    """The sample weights of a batch `x` as a vector, in a graph; the values are not checked.

    Raises:
      ValueError: if the shape is known and is not [n] or [n, 1] for n examples.
      tf.errors.InvalidArgumentError: if that shows when the graph runs.
    """
    weight, x = tf.convert_to_tensor(weight), tf.convert_to_tensor(x)
    _check_shape(weight.shape)
    known = x.shape[:1] if x.shape.rank else tf.TensorShape(None)
    if not known.is_compatible_with(weight.shape[:1]):
        raise ValueError(
            f"{_EXPECTED}; there are {known[0]} examples, and {weight.shape[0]} weights."
        )
    count, shape = tf.shape(x)[0], tf.shape(weight)
    fits = tf.equal(shape[0], count) & tf.equal(tf.size(weight), count)
    check = tf.debugging.Assert(fits, [f"{_EXPECTED}; there are", count, "examples, and", shape])
    # Weights that do not fit become NaN of the right size, so that no other op fails before the
    # check does. XLA drops the check: there the NaN shows.
    weight = tf.cond(
        fits,
        lambda: tf.reshape(weight, [count]),
        lambda: tf.fill([count], tf.cast(math.nan, weight.dtype)),
    )
    with tf.control_dependencies([check]):
        return tf.identity(weight)


def checked_weight_vector(weight: Any, x: Any) -> tf.Tensor:
    """`weight_vector`, whose values are checked when the graph runs."""
    weight = weight_vector(weight, x)
    as_float = tf.cast(weight, tf.float32)
    bad = tf.math.count_nonzero(~tf.math.is_finite(as_float) | (as_float < 0.0))
    text = "sample weights of a batch that are negative, NaN or infinite:"
    check = tf.debugging.Assert(tf.equal(bad, 0), [text, bad, "of", tf.size(weight)])
    with tf.control_dependencies([check]):
        return tf.identity(weight)


def _check_shape(shape: Any) -> None:
    shape = tf.TensorShape(shape)
    if shape.rank is None or shape.rank == 1 or (shape.rank == 2 and shape[1] in (1, None)):
        return
    raise ValueError(f"{_EXPECTED}; got shape {tuple(shape)}.")
