"""What a network computes from its variables alone, once for many evaluations."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

_LOCAL = threading.local()


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Within the block no variable changes, so that `held` need not compute anything twice."""
    before, _LOCAL.held = getattr(_LOCAL, "held", None), {}
    try:
        yield
    finally:
        _LOCAL.held = before


def held(owner: Any, compute: Callable[[], tf.Tensor]) -> tf.Tensor:
    """`compute()`, or what it gave before within the same block of `holding`.

    Only tensors of this graph or of one around it are given, as those outside of a loop's body:
    evaluate once before the loop.
    """
    store = getattr(_LOCAL, "held", None)
    if store is None:
        return compute()
    places = list(_places())
    for place in places:
        if (place, id(owner)) in store:
            return store[place, id(owner)]
    value = store[places[0], id(owner)] = compute()
    return value


def _places() -> Iterator[Any]:
    """Where tensors come from that can be used here: this graph first, then those around it."""
    if tf.executing_eagerly():
        yield "eager"
        return
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        yield graph
        graph = getattr(graph, "outer_graph", None)
