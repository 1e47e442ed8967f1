"""Where the noise of a training step comes from: new in every step, and the same if repeated."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

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
    """Within the block, in this thread, `fresh_seed` asks `noise`."""
    before, _LOCAL.noise = current_noise(), noise
    try:
        yield
    finally:
        _LOCAL.noise = before


def noise_at(place: tf.Tensor | int) -> contextlib.AbstractContextManager:
    """Within the block, noise differs from that at other places in the same loop."""
    return noise_from(current_noise().at(place))


def fresh_seed(owner: Any, own: int | None = None) -> tf.Tensor:
    """A seed of shape [2] for `owner`.

    It follows from the owner's `own` seed if there is one, or from `noise_from`, or else from
    TensorFlow's global generator. At other places in a loop it is another one.
    """
    noise = current_noise()
    if own is None:
        return noise.seed_for(owner)
    return noise.here(tf.constant([own, 0], tf.int32))
