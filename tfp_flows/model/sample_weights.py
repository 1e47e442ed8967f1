"""Sample weights: one number for each example, finite and 0 or more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

_WANTED = "Sample weights have shape (n,) or (n, 1), one number for each example"


def checked_weight(weight: Any, count: int) -> np.ndarray:
    """The sample weights of `count` examples as a vector.

    Args:
      weight: an array or list of shape [count] or [count, 1].
      count: how many examples there are.

    Raises:
      TypeError: they are not numbers.
      ValueError: another shape or length; a weight that is negative, NaN or infinite.
    """
    try:
        weight = np.asarray(weight)
    except ValueError as error:
        raise ValueError(f"{_WANTED}: {error}") from error
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


def weight_vector(weight: Any, examples: Any) -> tf.Tensor:
    """The sample weights of a batch as a vector, in a graph; their values are not looked at.

    Raises:
      ValueError: another shape than [n] or [n, 1] for n examples, as far as it is known.
      tf.errors.InvalidArgumentError: so it is once the batch is there.
    """
    weight = tf.convert_to_tensor(weight)
    _check_shape(weight.shape)
    rows = tf.convert_to_tensor(tf.nest.flatten(examples)[0])
    known = rows.shape[:1] if rows.shape.rank else tf.TensorShape(None)
    if not known.is_compatible_with(weight.shape[:1]):
        raise ValueError(
            f"{_WANTED}; there are {known[0]} examples, and {weight.shape[0]} weights."
        )
    count, shape = tf.shape(rows)[0], tf.shape(weight)
    fits = tf.equal(shape[0], count) & tf.equal(tf.size(weight), count)
    check = tf.debugging.Assert(fits, [f"{_WANTED}; there are", count, "examples, and", shape])
    # Weights that do not fit become NaN of the right size, so that no other op fails before the
    # check does. XLA leaves the check out: there NaN tells.
    weight = tf.cond(
        fits,
        lambda: tf.reshape(weight, [count]),
        lambda: tf.fill([count], tf.cast(math.nan, weight.dtype)),
    )
    with tf.control_dependencies([check]):
        return tf.identity(weight)


def checked_weight_vector(weight: Any, examples: Any) -> tf.Tensor:
    """`weight_vector`, with a check of the values when the batch is there."""
    weight = weight_vector(weight, examples)
    fine = tf.cast(weight, tf.float32)
    bad = tf.math.count_nonzero(~tf.math.is_finite(fine) | (fine < 0.0))
    text = "sample weights of a batch that are negative, NaN or infinite:"
    check = tf.debugging.Assert(tf.equal(bad, 0), [text, bad, "of", tf.size(weight)])
    with tf.control_dependencies([check]):
        return tf.identity(weight)


def _check_shape(shape: Any) -> None:
    shape = tf.TensorShape(shape)
    if shape.rank is None or shape.rank == 1 or (shape.rank == 2 and shape[1] in (1, None)):
        return
    raise ValueError(f"{_WANTED}; got shape {tuple(shape)}.")
