"""Which part of an event conditions a coupling, and which part it transforms.

A mask is one of `"half"`, `"alternate"`, `"channel"`, `"checkerboard"`, or a boolean array of
the event's shape (or of its last dimensions), True for the identity part. `swap` exchanges the two
parts.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf

NAMES = ("half", "alternate", "channel", "checkerboard")


class Parts(Protocol):
    """How a coupling splits its event."""

    def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the identity part and the transformed part."""

    def merge(self, identity: tf.Tensor, transformed: tf.Tensor) -> tf.Tensor:
        """The inverse of `split`; gradients of its results become that of its argument."""

    def trim(self, log_slope: tf.Tensor) -> tf.Tensor:
        """Sets what belongs to the identity part to zero."""


class LastAxisParts:
    """Cuts the last axis in two: both parts are smaller than the event."""

    def __init__(self, is_identity: np.ndarray):
        order = np.concatenate([np.flatnonzero(is_identity), np.flatnonzero(~is_identity)])
        n, size = int(is_identity.sum()), is_identity.size
        self._sizes = [n, size - n]
        self._order = None if (order == np.arange(size)).all() else order.astype(np.int32)
        self._swapped = bool((~is_identity[: size - n]).all() and is_identity[size - n :].all())

    def split(self, x):
        if self._swapped:
            transformed, identity = tf.split(x, self._sizes[::-1], axis=-1)
            return identity, transformed
        if self._order is not None:
            x = tf.gather(x, self._order, axis=-1)
        return tuple(tf.split(x, self._sizes, axis=-1))

    def merge(self, identity, transformed):
        if self._swapped:
            return tf.concat([transformed, identity], axis=-1)
        x = tf.concat([identity, transformed], axis=-1)
        if self._order is not None:
            x = tf.gather(x, np.argsort(self._order).astype(np.int32), axis=-1)
        return x

    def trim(self, log_slope):
        return log_slope


class MaskedParts:
    """Both parts have the event's shape, and zeros where the other part is."""

    def __init__(self, is_identity: np.ndarray):
        self._is_identity = is_identity

    def split(self, x):
        mask = tf.constant(self._is_identity, x.dtype)
        return x * mask, x * (1.0 - mask)

    def merge(self, identity, transformed):
        return tf.where(self._is_identity, identity, transformed)

    def trim(self, log_slope):
        return log_slope * tf.constant(~self._is_identity, log_slope.dtype)


def make_parts(mask: str | np.ndarray, swap: bool, event: tuple[int, ...]) -> Parts:
    """Resolves a mask for an event shape.

    Raises:
      ValueError: if the mask does not fit the event, or leaves one of the parts empty.
    """
    if isinstance(mask, str):
        is_identity = _named(mask, event)
    else:
        is_identity = np.asarray(mask)
        if is_identity.shape != event[len(event) - is_identity.ndim :]:
            raise ValueError(
                f"The mask has shape {is_identity.shape}, which does not fit events of shape "
                f"{event}: it must have the event's shape, or that of its last dimensions."
            )
    is_identity = ~is_identity if swap else is_identity
    if is_identity.all() or not is_identity.any():
        raise ValueError(
            f"A coupling transforms one part of the event given the other; mask {mask!r} leaves "
            f"one of them empty for an event of shape {event}. Couplings need two entries or more."
        )
    return LastAxisParts(is_identity) if is_identity.ndim == 1 else MaskedParts(is_identity)


def mask_event_ndims(mask: str | np.ndarray) -> int:
    """The event rank that a mask is made for.

    Raises:
      ValueError: if there is no mask of that name.
    """
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
