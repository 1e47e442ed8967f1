"""Data outside of a flow's support: found before the layers are run, and named."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Chain, Logit
from tfp_flows.core.support import is_formula, within
from tfp_flows.distributions.dequantized import Dequantized

tfb, tfd = tfp.bijectors, tfp.distributions

_NAMED = 5  # columns that a message names
_AT_A_TIME = 2**16  # rows


def check_support(x, flow: tfd.Distribution, what: str = "rows") -> None:
    """Raises ValueError if examples `[n, *event]` have no density by the flow's data bijector.

    It looks at the bijectors next to the data that hold no network: further in, it is the
    log-density, minus infinity, that tells.
    """
    flow, parts = _parts(flow)
    if not parts:
        return
    x = np.asarray(x)
    outside = np.zeros(x.shape, bool)
    for start in range(0, len(x), _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        outside[rows] = _outside(_values(x[rows], flow), parts).numpy()
    bad = int(outside.any(axis=tuple(range(1, x.ndim))).sum())
    if bad:
        values = _values(x, flow).numpy()
        raise ValueError(
            f"{bad} of {len(x)} {what} have no density: they lie on or outside of the bounds that "
            f"the flow's data bijector sets. {_columns(values, outside, parts)} Remove or correct "
            "them, or choose a data bijector whose bounds hold all data."
        )


def support_assertions(x: tf.Tensor, flow: tfd.Distribution) -> list[tf.Operation]:
    """As `check_support`, for a graph: assertions to run, none if there is nothing to check."""
    flow, parts = _parts(flow)
    if not parts or any(b.variables for b in parts):  # a data set holds no variables
        return []
    outside = _outside(_values(x, flow), parts)
    bad = tf.math.count_nonzero(tf.reduce_any(outside, axis=list(range(1, outside.shape.rank))))
    message = "rows of a batch on or outside of the bounds that the flow's data bijector sets:"
    columns = tf.reduce_any(outside, axis=0)
    data = [message, bad, "of", tf.shape(x)[0], "in columns", tf.where(columns)]
    return [tf.debugging.Assert(tf.equal(bad, 0), data, summarize=_NAMED)]


def _parts(flow: tfd.Distribution) -> tuple[tfd.Distribution, list[tfb.Bijector]]:
    """The flow, or the pixels around it, and the bijectors next to the data without networks."""
    continuous = flow.flow if isinstance(flow, Dequantized) else flow
    bijector = getattr(continuous, "bijector", None)
    if not isinstance(bijector, tfb.Bijector):
        return flow, []
    parts = []
    for b in _opened(bijector):
        if not (is_formula(b) or isinstance(b, Logit)):
            break
        parts.append(b)
    return flow, parts


def _opened(bijector: tfb.Bijector) -> Iterator[tfb.Bijector]:
    """The parts from data to latent; chains of this package are opened."""
    if not isinstance(bijector, Chain):
        yield bijector
        return
    for b in bijector.bijectors:
        yield from _opened(b)


def _values(x, flow: tfd.Distribution) -> tf.Tensor:
    """Examples as the continuous flow sees them: pixels in the middle of their bins."""
    if isinstance(flow, Dequantized):
        return flow.bin_centers(x)
    return tf.cast(x, flow.dtype)


def _outside(y: tf.Tensor, parts: list[tfb.Bijector]) -> tf.Tensor:
    """Which entries of `y` have no latent; where parts change the shape, whole rows."""
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
    """Says how many rows of which columns are at fault, and at which bound."""
    low, high = _bounds(values, parts)
    if np.isnan(low).all():
        row = int(outside.reshape(len(outside), -1).any(axis=1).argmax())
        return f"Row {row} is not a value that it gives: {values[row].tolist()}."
    columns = np.argwhere(outside.any(axis=0))
    said = [_column(tuple(c), values, outside, low, high) for c in columns[:_NAMED]]
    more = len(columns) - len(said)
    return "; ".join(said) + (f"; and {more} more column(s)." if more else ".")


def _column(place: tuple, values, outside, low, high) -> str:
    wrong = outside[(slice(None), *place)]
    numbers = values[(slice(None), *place)][wrong].astype(float)
    name = f"Column {', '.join(map(str, place))}: "
    below, above = int((numbers <= low[place]).sum()), int((numbers >= high[place]).sum())
    at = [f"{below} at or below {low[place]:g}"] if below else []
    at += [f"{above} at or above {high[place]:g}"] if above else []
    return name + (" and ".join(at) or f"{len(numbers)}, as {numbers[0]:g}")


def _bounds(values: np.ndarray, parts: list[tfb.Bijector]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest data, column by column; NaN where that is not known."""
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
    return np.minimum(*ends) + 0.0, np.maximum(*ends) + 0.0  # not -0
