"""Data that have no density: what is constant, repeated or dependent in a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REPEATS = 0.1  # share of rows that repeat others, from which on they are named
_MOST_ROWS, _MOST_COLUMNS = 4096, 256  # searched for linear dependence
_CANDIDATE = 1e-3  # what is left of a column given others, in standard deviations


def without_density(given: np.ndarray, rows: np.ndarray) -> list[str]:
    """What keeps the rows of a table from having a density, in words; an empty list if nothing.

    Args:
      given: `[n, columns]`.
      rows: the same in the dtype of the flow, where values may have become equal by rounding.
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
    """Groups of columns with a linear relation that holds to rounding."""
    step = -(-len(rows) // _MOST_ROWS)
    values = rows[::step, columns].astype(np.float64)
    n, width = values.shape
    if not 1 < width <= min(_MOST_COLUMNS, n // 2):
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
