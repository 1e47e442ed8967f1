"""Data outside a flow's support: found before the layers are evaluated, and reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Chain, Logit
from tfp_flows.core.support import is_formula, within
from tfp_flows.distributions.dequantized import Dequantized

tfb, tfd = tfp.bijectors, tfp.distributions

_MAX_COLUMNS = 5  # in a message
_CHUNK = 2**16  # rows


def check_support(x: Any, flow: tfd.Distribution, what: str = "rows") -> None:
    """Raises ValueError if examples have no density under the flow's data bijector.

    Only bijectors next to the data and without a network are evaluated; for the others the
    log-density shows it by being minus infinity.

    Args:
      x: examples, `[n, *event]`.
      flow: the distribution.
      what: what the message calls examples.
    """
    flow, parts = _parts(flow)
    if not parts:
        return
    x = np.asarray(x)
    outside = np.zeros(x.shape, bool)
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        outside[rows] = _outside(_values(x[rows], flow), parts).numpy()
    bad = int(outside.any(axis=tuple(range(1, x.ndim))).sum())
    if bad:
        values = _values(x, flow).numpy()
        raise ValueError(
            f"{bad} of {len(x)} {what} have no density: they lie on or outside the bounds that "
            f"the flow's data bijector sets. {_columns(values, outside, parts)} Remove or correct "
            "them, or choose a data bijector whose bounds hold all data."
        )


def support_assertions(x: tf.Tensor, flow: tfd.Distribution) -> list[tf.Operation]:
    """Assertions that do in a graph what `check_support` does; none if there is nothing to check.

    Args:
      x: examples, `[n, *event]`.
      flow: the distribution.
    """
    flow, parts = _parts(flow)
    if not parts or any(b.variables for b in parts):  # tf.data captures no variables
        return []
    outside = _outside(_values(x, flow), parts)
    bad = tf.math.count_nonzero(tf.reduce_any(outside, axis=list(range(1, outside.shape.rank))))
    message = "rows of a batch on or outside of the bounds that the flow's data bijector sets:"
    columns = tf.reduce_any(outside, axis=0)
    data = [message, bad, "of", tf.shape(x)[0], "in columns", tf.where(columns)]
    return [tf.debugging.Assert(tf.equal(bad, 0), data, summarize=_MAX_COLUMNS)]


def _parts(flow: tfd.Distribution) -> tuple[tfd.Distribution, list[tfb.Bijector]]:
    """The distribution, and the bijectors next to the data that hold no network."""
    continuous = flow.flow if isinstance(flow, Dequantized) else flow
    bijector = getattr(continuous, "bijector", None)
    if not isinstance(bijector, tfb.Bijector):
        return flow, []
    parts = []
    for b in _flattened(bijector):
        if not (is_formula(b) or isinstance(b, Logit)):
            break
        parts.append(b)
    return flow, parts


def _flattened(bijector: tfb.Bijector) -> Iterator[tfb.Bijector]:
    """The parts from data to latent; those of an `fb.Chain` one by one."""
    if not isinstance(bijector, Chain):
        yield bijector
        return
    for b in bijector.bijectors:
        yield from _flattened(b)


def _values(x: Any, flow: tfd.Distribution) -> tf.Tensor:
    """Examples as the continuous flow sees them: pixels in the middle of their bins."""
    if isinstance(flow, Dequantized):
        return flow.bin_centers(x)
    return tf.cast(x, flow.dtype)


def _outside(y: tf.Tensor, parts: list[tfb.Bijector]) -> tf.Tensor:
    """Which entries of `y` have no latent; whole rows where parts change the shape."""
    outside = tf.zeros(tf.shape(y), tf.bool)
    outside.set_shape(y.shape)
    value, batch = y, tf.shape(y)[:1]
    for b in parts:
        both = b.within(value) if isinstance(b, Logit) else within(b, value, value.shape.rank - 1)
        safe, inside = both
        if inside.shape[1:] != y.shape[1:]:
            row = tf.reduce_all(inside, axis=list(range(1, inside.shape.rank)))
            inside = tf.reshape(row, tf.concat([batch, [1] * (y.shape.rank - 1)], 0))
        outside |= ~inside
        value = b.inverse(tf.identity(safe))
    return outside


def _columns(values: np.ndarray, outside: np.ndarray, parts: list[tfb.Bijector]) -> str:
    """Says how many values of which columns are outside, and of which bound."""
    low, high = _bounds(values, parts)
    if np.isnan(low).all():
        row = int(outside.reshape(len(outside), -1).any(axis=1).argmax())
        return f"Row {row} is not a value that it gives: {values[row].tolist()}."
    columns = np.argwhere(outside.any(axis=0))
    named = [_column(tuple(c), values, outside, low, high) for c in columns[:_MAX_COLUMNS]]
    more = len(columns) - len(named)
    return "; ".join(named) + (f"; and {more} more column(s)." if more else ".")


def _column(
    index: tuple, values: np.ndarray, outside: np.ndarray, low: np.ndarray, high: np.ndarray
) -> str:
    wrong = outside[(slice(None), *index)]
    numbers = values[(slice(None), *index)][wrong].astype(float)
    name = f"Column {', '.join(map(str, index))}: "
    below, above = int((numbers <= low[index]).sum()), int((numbers >= high[index]).sum())
    at = [f"{below} at or below {low[index]:g}"] if below else []
    at += [f"{above} at or above {high[index]:g}"] if above else []
    return name + (" and ".join(at) or f"{len(numbers)}, as {numbers[0]:g}")


def _bounds(values: np.ndarray, parts: list[tfb.Bijector]) -> tuple[np.ndarray, np.ndarray]:
    """The infimum and supremum of each column's values; NaN where they are not known."""
    ends, shape = [], values.shape[1:]
    latent = tf.TensorShape(shape)
    for b in parts:
        latent = b.inverse_event_shape(latent)
    if latent == shape:  # else a column depends on many latents
        for end in (values.dtype.type(-np.inf), values.dtype.type(np.inf)):
            value = tf.fill([1, *shape], tf.constant(np.nan_to_num(end), values.dtype))
            for b in reversed(parts):
                value = b.forward(tf.identity(value))
            ends.append(value[0].numpy().astype(float))
    if not ends:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    return np.minimum(*ends) + 0.0, np.maximum(*ends) + 0.0  # -0 becomes 0
