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
      seed: gives the seed, shape [2] and int32; called in the graph that needs it.
      places: which places in loops the seeds are for.
    """

    def __init__(self, seed: Callable[[], tf.Tensor], places: tuple = ()):
        self._seed = seed
        self._places = places
        self._turns: dict[int, int] = {}

    def seed_for(self, owner: Any) -> tf.Tensor:
        """The seed of `owner`; it has but one, so that what is evaluated again draws alike."""
        turn = self._turns.setdefault(id(owner), len(self._turns))
        seed = _fold(self._seed(), turn)
        for place in self._places:
            seed = _fold(seed, place)
        return seed

    def at(self, place: tf.Tensor | int) -> Noise:
        """The noise at one place in a loop."""
        inner = Noise(self._seed, (*self._places, place))
        inner._turns = self._turns
        return inner


def current_noise() -> Noise | None:
    """What `noise_from` has set in this thread."""
    return getattr(_LOCAL, "noise", None)


def noise_source() -> Callable[[], tf.Tensor] | None:
    """What gives the seed of the noise in this thread; None: TensorFlow's global generator."""
    return getattr(current_noise(), "_seed", None)


@contextlib.contextmanager
def noise_from(noise: Noise | None) -> Iterator[None]:
    """Within the block, in this thread, `fresh_seed` asks `noise`."""
    before, _LOCAL.noise = current_noise(), noise
    try:
        yield
    finally:
        _LOCAL.noise = before


def noise_at(place: tf.Tensor | int) -> contextlib.AbstractContextManager:
    """Within the block, noise differs from that at other places in the same loop."""
    noise = current_noise()
    return noise_from(noise and noise.at(place))


def fresh_seed(owner: Any) -> tf.Tensor:
    """A seed of shape [2] for `owner`; without `noise_from`, from TensorFlow's global generator."""
    noise = current_noise()
    if noise is None:
        return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    return noise.seed_for(owner)
