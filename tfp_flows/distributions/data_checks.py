"""Data without a density, outliers, and contexts in unsuitable units: found before training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions import Flow

tfd = tfp.distributions

OUTLIER = 1000.0  # times the median distance from the median
REPEATS = 0.1  # share of rows that repeat others, from which on they are reported
FAR = 100.0  # networks train slowly where the size of their inputs is off by more than this
_MAX_ROWS, _MAX_COLUMNS = 4096, 256  # searched for linear dependence
_CANDIDATE = 1e-3  # what is left of a column given others, in standard deviations


def count_bad_rows(batch: tf.Tensor) -> tf.Tensor:
    """How many examples of a floating-point batch hold NaN or infinity."""
    finite = tf.reduce_all(tf.math.is_finite(batch), axis=tf.range(1, tf.rank(batch)))
    return tf.math.count_nonzero(~finite)


def warn_about_data(flow: tfd.Distribution, batch: tf.Tensor) -> None:
    """Warns of outliers, and of vectors on which the density of any model grows without bound."""
    rows = batch.numpy().reshape(batch.shape[0], -1)
    for message in (_outliers(rows), _no_density(flow, rows)):
        if message:
            _warn(message)


def _outliers(rows: np.ndarray) -> str | None:
    away = np.abs(rows - np.median(rows, axis=0))
    far = away > OUTLIER * np.median(away, axis=0)
    far &= np.median(away, axis=0) > 0.0  # pixels that are nearly always black have no scale
    if not far.any():
        return None
    row, feature = np.argwhere(far)[0]
    return (
        f"{int(far.any(axis=1).sum())} of {len(rows)} examples hold values over {OUTLIER:g} times "
        f"as far from the median as usual, as {rows[row, feature]:g} in row {row}. They determine "
        "the flow's scale, and it learns the others badly. Remove them, or initialise on a batch "
        "without them."
    )


def _no_density(flow: tfd.Distribution, rows: np.ndarray) -> str | None:
    shape, bijector = flow.event_shape, getattr(flow, "bijector", None)
    if len(shape) != 1 or bijector is None:
        return None
    # A bijector from fewer dimensions, as tfb.SoftmaxCentered, is made for dependent columns.
    if bijector.inverse_event_shape(shape).num_elements() != shape[0]:
        return None
    found = degeneracies(rows, tf.cast(rows, flow.dtype).numpy())
    if not found:
        return None
    return (
        f"data such as these {len(rows)} examples have no density: {'; '.join(found)}. The loss "
        "will fall without bound as the flow narrows around them. Remove such columns or rows, or "
        "add noise; whole numbers are for flows.Dequantized."
    )


def degeneracies(given: np.ndarray, rows: np.ndarray) -> list[str]:
    """Says why the rows of a table have no density; an empty list if nothing is found.

    Args:
      given: `[n, columns]`.
      rows: the same in the dtype of the flow, where rounding may have made values equal.
    """
    found = []
    constant = np.all(rows == rows[0], axis=0)
    rounded = constant & ~np.all(given == given[0], axis=0)
    for columns, how in ((constant & ~rounded, ""), (rounded, f" when rounded to {rows.dtype}")):
        if columns.any():
            found.append(f"{_named(np.flatnonzero(columns))} constant{how}")
    groups: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(~constant):
        groups.setdefault((rows[:, column] + 0.0).tobytes(), []).append(int(column))
    found += [f"{_named(group)} equal" for group in groups.values() if len(group) > 1]
    distinct = [group[0] for group in groups.values()]
    found += [f"{_named(group)} linearly dependent" for group in _dependent(rows, distinct)]
    count = len({row.tobytes() for row in rows + 0.0})
    if distinct and len(rows) - count > REPEATS * len(rows):
        found.append(f"{len(rows) - count} of {len(rows)} rows repeat other rows")
    return found


def _dependent(rows: np.ndarray, columns: list[int]) -> list[list[int]]:
    """Groups of columns with a linear relation that holds up to rounding."""
    step = -(-len(rows) // _MAX_ROWS)
    values = rows[::step, columns].astype(np.float64)
    n, width = values.shape
    if not 1 < width <= min(_MAX_COLUMNS, n // 2):
        return []
    largest = np.abs(values).max(axis=0)
    values -= values.mean(axis=0)
    deviation = values.std(axis=0)
    if not deviation.all():  # constant in the rows that are searched
        return []
    values /= deviation
    rounding = np.finfo(rows.dtype).eps * largest / deviation
    left = np.abs(np.diagonal(np.linalg.qr(values, mode="r"))) / np.sqrt(n)
    free = [i for i in range(width) if left[i] > _CANDIDATE]
    groups = []
    for i in (i for i in range(width) if left[i] <= _CANDIDATE):
        others = [j for j in free if j < i]
        weights = np.linalg.lstsq(values[:, others], values[:, i], rcond=None)[0]
        rest = np.std(values[:, i] - values[:, others] @ weights)
        if rest <= rounding[i] + np.abs(weights) @ rounding[others]:
            used = [j for j, w in zip(others, weights, strict=True) if abs(w) > _CANDIDATE]
            groups.append([columns[j] for j in (*used, i)])
    return groups


def _named(columns: Sequence[int]) -> str:
    numbers = [str(c) for c in columns[:10]]
    if len(columns) == 1:
        return f"column {numbers[0]} is"
    if len(columns) > 10:
        return f"columns {', '.join(numbers)} and {len(columns) - 10} more are"
    return f"columns {', '.join(numbers[:-1])} and {numbers[-1]} are"


def validate_contexts(flow: Flow, context: Any) -> None:
    """Raises ValueError if the context does not fit, is empty, or holds NaN or infinity."""
    validated = flow.validated_context(context)
    if validated is None or not validated.dtype.is_floating:
        return
    rows = validated.numpy().reshape(-1, max(int(np.prod(flow.context_shape)), 1))
    if not len(rows):
        raise ValueError(f"initialize needs at least one context, got shape {validated.shape}.")
    bad = int((~np.isfinite(rows).all(axis=1)).sum())
    if bad:
        given, cast = np.asarray(context), ""
        if given.dtype.kind == "f" and np.isfinite(given).all():
            cast = f" once they are cast from {given.dtype.name} to {validated.dtype.name}"
        raise ValueError(
            f"initialize: {bad} of {len(rows)} contexts hold NaN or infinity{cast}. Look at the "
            "context: remove these examples, or fill the gaps."
        )


def warn_about_contexts(flow: Flow, context: Any) -> None:
    """Warns of contexts that do not differ, or that an encoder gets in unsuitable units."""
    validated = flow.validated_context(context)
    if validated is None or not validated.dtype.is_floating:
        return
    channels = _channels(validated, flow)
    constant = (channels == channels[:1]).all(axis=0)
    given = np.asarray(context)
    if given.dtype != channels.dtype and given.dtype.kind in "iuf":
        lost = constant & (_channels(given, flow) != _channels(given, flow)[:1]).any(axis=0)
        if lost.any():
            _warn(
                f"{_entries(lost)} of the context differs between examples as {given.dtype.name}, "
                f"but not in the flow's {channels.dtype.name}, so nothing can be learned from it. "
                "Subtract a reference value before it is cast."
            )
    if flow.context_standardizer is not None:
        if flow.context_standardizer.needs_initialization and constant.all():
            _warn(
                "all examples have the same context, so the spread of contexts is not known: they "
                "are standardised by their distance from this one, relative to its size. Give "
                "initialize the contexts of all examples, or build the flow with "
                "standardize_context=False."
            )
    elif flow.context_encoder is not None and flow.parameters["standardize_context"] is None:
        mean, spread = channels.mean(axis=0), channels.std(axis=0)
        odd = ~constant & ((spread < 1.0 / FAR) | (np.maximum(spread, np.abs(mean)) > FAR))
        if odd.any():
            at = int(np.argmax(odd))
            _warn(
                f"{_entries(odd)} of the context goes to the context_encoder in units that "
                f"networks learn badly from: entry {at} has mean {mean[at]:.3g} and standard "
                f"deviation {spread[at]:.3g}. Build the flow with standardize_context=True, or "
                "with False if the encoder needs these values."
            )


def _channels(context: Any, flow: Flow) -> np.ndarray:
    """The context's values, `[n, entries of the last axis]`."""
    shape = flow.context_shape
    return np.asarray(context).reshape(-1, shape[-1] if shape else 1)


def _entries(entries: np.ndarray) -> str:
    indices = np.flatnonzero(entries).tolist()
    more = ", ..." if len(indices) > 5 else ""
    kind = "entry" if len(indices) == 1 else "entries"
    return f"{kind} {', '.join(map(str, indices[:5]))}{more} (counted from 0)"


def _warn(message: str) -> None:
    warnings.warn(f"initialize: {message}", stacklevel=4)  # where initialize is called
