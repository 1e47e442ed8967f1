"""Which part of an event conditions a coupling, and which part it transforms.

A mask is one of `"half"`, `"alternate"`, `"channel"`, `"checkerboard"`, or a boolean array of
the event's shape (or of its last dimensions), True where the event is kept. `swap` exchanges
the two parts.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf

NAMES = ("half", "alternate", "channel", "checkerboard")


class Parts(Protocol):
    """How a coupling sees its event."""

    def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the conditioner sees, and what is transformed."""

    def merge(self, kept: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
        """The inverse of `split`; turns gradients of its results into that of its argument."""

    def trim(self, parameter: tf.Tensor) -> tf.Tensor:
        """Zero wherever the parameter would touch the kept part."""


class LastAxisParts:
    """Cuts the last axis in two: the conditioner is given the kept entries alone."""

    def __init__(self, kept: np.ndarray):
        order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])
        self._n_kept = int(kept.sum())
        self._sizes = [self._n_kept, kept.size - self._n_kept]
        self._order = None if (order == np.arange(kept.size)).all() else order.astype(np.int32)
        self._swapped = bool((~kept[: self._sizes[1]]).all() and kept[self._sizes[1] :].all())

    def split(self, x):
        if self._swapped:
            changed, kept = tf.split(x, self._sizes[::-1], axis=-1)
            return kept, changed
        if self._order is not None:
            x = tf.gather(x, self._order, axis=-1)
        return tuple(tf.split(x, self._sizes, axis=-1))

    def merge(self, kept, changed):
        if self._swapped:
            return tf.concat([changed, kept], axis=-1)
        x = tf.concat([kept, changed], axis=-1)
        if self._order is not None:
            x = tf.gather(x, np.argsort(self._order).astype(np.int32), axis=-1)
        return x

    def trim(self, parameter):
        return parameter


class MaskedParts:
    """Keeps the event's shape: the conditioner sees zeros where the event is transformed."""

    def __init__(self, kept: np.ndarray):
        self._kept = kept

    def split(self, x):
        keep = tf.constant(self._kept, x.dtype)
        return x * keep, x * (1.0 - keep)

    def merge(self, kept, changed):
        return tf.where(self._kept, kept, changed)

    def trim(self, parameter):
        return parameter * tf.constant(~self._kept, parameter.dtype)


def make_parts(mask: str | np.ndarray, swap: bool, event: tuple[int, ...]) -> Parts:
    """Resolves a mask for an event shape.

    Raises:
      ValueError: the mask does not fit the event, or leaves nothing to keep or to transform.
    """
    if isinstance(mask, str):
        kept = _named(mask, event)
    else:
        kept = np.asarray(mask)
        if kept.shape != event[len(event) - kept.ndim :]:
            raise ValueError(
                f"The mask has shape {kept.shape}, which does not fit events of shape {event}: it "
                "must have the event's shape, or that of its last dimensions."
            )
    kept = ~kept if swap else kept
    if kept.all() or not kept.any():
        raise ValueError(
            f"A coupling keeps a part of the event and transforms the rest; mask {mask!r} leaves "
            f"one of them empty for an event of shape {event}. Couplings need two entries or more."
        )
    return LastAxisParts(kept) if kept.ndim == 1 else MaskedParts(kept)


def mask_event_ndims(mask: str | np.ndarray) -> int:
    """The event rank a mask is made for, unless the user says otherwise."""
    if not isinstance(mask, str):
        return np.ndim(mask)
    if mask not in NAMES:
        raise ValueError(f"mask must be one of {NAMES} or a boolean array, got {mask!r}.")
    return 3 if mask in ("channel", "checkerboard") else 1


def _named(mask: str, event: tuple[int, ...]) -> np.ndarray:
    size = event[-1]
    if mask == "checkerboard":
        rows, columns = np.indices(event[-3:-1])
        return np.repeat(((rows + columns) % 2 == 0)[..., None], size, axis=-1)
    if mask == "alternate":
        return np.arange(size) % 2 == 0
    if size % 2:
        raise ValueError(
            f"mask {mask!r} cuts the last axis in two equal halves, but an event of shape {event} "
            f"has {size} entries there. Use mask='alternate', a boolean array, or an even size."
        )
    return np.arange(size) < size // 2
