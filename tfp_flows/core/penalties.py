"""What a bijector wants added to the loss, from the evaluation that the loss is made of."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

_LOCAL = threading.local()


@contextlib.contextmanager
def collected_penalties() -> Iterator[list[tf.Tensor]]:
    """Within the block, `add_penalty` adds to the list that is yielded."""
    before, _LOCAL.found = getattr(_LOCAL, "found", None), []
    try:
        yield _LOCAL.found
    finally:
        _LOCAL.found = before


def penalties_wanted() -> bool:
    """Whether somebody collects penalties, so that they are worth computing."""
    return getattr(_LOCAL, "found", None) is not None


def add_penalty(penalty: tf.Tensor) -> None:
    """Hands a penalty, one number for each example, to whoever collects; else does nothing."""
    if penalties_wanted():
        _LOCAL.found.append(penalty)


@contextlib.contextmanager
def summed_penalties(total: tf.Tensor | tuple) -> Iterator[Callable[[], tf.Tensor | tuple]]:
    """Within a loop's body: gives a function for `total` and what the block adds to it.

    `total` is `()`, and stays so, where nobody collects.
    """
    if not penalties_wanted():
        yield lambda: total
        return
    with collected_penalties() as found:
        yield lambda: tf.add_n([total, *found])
