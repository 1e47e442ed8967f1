"""What one evaluation carries along: noise, penalties, and what it need not compute twice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfp_flows.core import private

_LOCAL = threading.local()
_fold = tf.random.experimental.stateless_fold_in


class Noise:
    """Seeds for whoever draws noise, all of them from one.

    Args:
      seed: gives the seed, shape [2] and int32; called in the graph that needs it. Without it
        every seed is drawn from TensorFlow's global generator.
      places: which places in loops the seeds are for.
    """

    def __init__(self, seed: Callable[[], tf.Tensor] | None = None, places: tuple = ()):
        self._seed = seed
        self._places = places
        self._turns: dict[int, int] = {}

    def seed_for(self, owner: Any) -> tf.Tensor:
        """The seed of `owner`; it has but one, so that what is evaluated again draws alike."""
        if self._seed is None:
            return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
        turn = self._turns.setdefault(id(owner), len(self._turns))
        return self.here(_fold(self._seed(), turn))

    def here(self, seed: tf.Tensor) -> tf.Tensor:
        """What a seed of shape [2] becomes at this place in loops."""
        for place in self._places:
            seed = _fold(seed, place)
        return seed

    def at(self, place: tf.Tensor | int) -> Noise:
        """The noise at one place in a loop."""
        inner = Noise(self._seed, (*self._places, place))
        inner._turns = self._turns
        return inner


def current_noise() -> Noise:
    """What `noise_from` has set in this thread."""
    return getattr(_LOCAL, "noise", None) or Noise()


def noise_source() -> Callable[[], tf.Tensor] | None:
    """What gives the seed of the noise in this thread; None: TensorFlow's global generator."""
    return getattr(current_noise(), "_seed", None)


@contextlib.contextmanager
def noise_from(noise: Noise) -> Iterator[None]:
    """Within the block, in this thread, `noise_seed` asks `noise`."""
    before, _LOCAL.noise = current_noise(), noise
    try:
        yield
    finally:
        _LOCAL.noise = before


def noise_at(place: tf.Tensor | int) -> contextlib.AbstractContextManager:
    """Within the block, noise differs from that at other places in the same loop."""
    return noise_from(current_noise().at(place))


def noise_seed(owner: Any, own: int | None = None) -> tf.Tensor:
    """A seed of shape [2] for `owner`.

    It follows from the owner's `own` seed if there is one, or from `noise_from`, or else from
    TensorFlow's global generator. At other places in a loop it is another one.
    """
    noise = current_noise()
    if own is None:
        return noise.seed_for(owner)
    return noise.here(tf.constant([own, 0], tf.int32))


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
        graph = private.outer_graph(graph)
