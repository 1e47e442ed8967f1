"""What one evaluation carries along: training or not, noise, penalties, shared values, settings."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import tensorflow as tf

from tfp_flows.core import private

_fold = tf.random.experimental.stateless_fold_in


class NoiseSource:
    """Derives the seeds of all owners of noise from one seed.

    Args:
      seed: returns the seed, of shape [2] and int32; called in the graph that needs it.
    """

    def __init__(self, seed: Callable[[], tf.Tensor]):
        self._seed = seed
        self._indices: dict[int, int] = {}

    def seed_of(self, owner: Any) -> tf.Tensor:
        """The seed of `owner`: always the same one, so that a second evaluation draws alike."""
        index = self._indices.setdefault(id(owner), len(self._indices))
        return _fold(self._seed(), index)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The state that an evaluation depends on besides its arguments and variables.

    The current one is `current()`; `evaluating` replaces fields for a block. Everything that
    changes what is computed is part of `key`, so whoever caches a trace or a value caches by it.

    Attributes:
      training: whether in training mode; None: as the Keras model that is being called.
      noise: where seeds of noise come from; None: TensorFlow's global generator.
      indices: of the loops around, which make noise differ from step to step.
      penalties: the list that collects penalties; None if nobody does.
      shared: values that are computed once; None if variables may change in between.
      substituting: whether this thread has given variables other values.
    """

    training: bool | None = None
    noise: NoiseSource | None = None
    indices: tuple[int | tf.Tensor, ...] = ()
    penalties: list[tf.Tensor] | None = None
    shared: dict[tuple, Any] | None = None
    substituting: bool = False

    @property
    def in_training(self) -> bool:
        """Whether in training mode; False outside of any Keras model, unless set."""
        return any(private.keras_modes()) if self.training is None else self.training

    @property
    def collects_penalties(self) -> bool:
        """Whether somebody collects penalties, so that they are worth computing."""
        return self.penalties is not None

    @property
    def key(self) -> Hashable:
        """Equal for evaluations that compute the same."""
        return (
            self.in_training,
            self.noise,
            tuple(i.ref() if tf.is_tensor(i) else i for i in self.indices),
            self.collects_penalties,
            self.substituting,
            settings_version(),
        )

    def repeated(self) -> dict[str, Any]:
        """The fields for `evaluating` with which a later evaluation computes the same values.

        Its penalties are nobody's: they were added the first time.
        """
        same = {"training": self.in_training, "noise": self.noise, "indices": self.indices}
        return same | {"penalties": None}


# The one ambient channel: of each thread by itself.
_CURRENT = contextvars.ContextVar("evaluation", default=Evaluation())  # noqa: B039, it is frozen
current = _CURRENT.get


@contextlib.contextmanager
def evaluating(**changes: Any) -> Iterator[None]:
    """Replaces fields of the current `Evaluation` within the block, in this thread.

    Args:
      **changes: fields of `Evaluation`.
    """
    token = _CURRENT.set(dataclasses.replace(current(), **changes))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def at_index(index: int | tf.Tensor) -> contextlib.AbstractContextManager[None]:
    """Within the block, noise differs from that at other indices of the same loop."""
    if tf.executing_eagerly():
        index = int(index)  # a key of traces must be hashable
    return evaluating(indices=(*current().indices, index))


def noise_seed(owner: Any, own: int | None = None) -> tf.Tensor:
    """A seed of shape [2] for `owner`, which depends on the loop indices as well.

    Args:
      owner: who draws.
      own: the owner's own seed, which goes before that of the evaluation.
    """
    now = current()
    if own is not None:
        seed = tf.constant([own, 0], tf.int32)
    elif now.noise is not None:
        seed = now.noise.seed_of(owner)
    else:
        return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    for index in now.indices:
        seed = _fold(seed, index)
    return seed


@contextlib.contextmanager
def collecting_penalties() -> Iterator[list[tf.Tensor]]:
    """Within the block, `add_penalty` adds to the list that is yielded."""
    found: list[tf.Tensor] = []
    with evaluating(penalties=found):
        yield found


def add_penalty(penalty: tf.Tensor) -> None:
    """Hands a penalty, one number for each example, to whoever collects; else does nothing."""
    if current().collects_penalties:
        current().penalties.append(penalty)


@contextlib.contextmanager
def summing_penalties(total: tf.Tensor | tuple) -> Iterator[Callable[[], tf.Tensor | tuple]]:
    """Within a loop's body: yields a function for `total` plus what the block adds to it.

    `total` is `()`, and stays so, where nobody collects.
    """
    if not current().collects_penalties:
        yield lambda: total
        return
    with collecting_penalties() as found:
        yield lambda: tf.add_n([total, *found])


def sharing() -> contextlib.AbstractContextManager[None]:
    """Within the block no variable changes, so that `shared` need not compute anything twice.

    A block within a block shares the same values.
    """
    values = current().shared
    return evaluating(shared={} if values is None else values)


def shared(owner: Any, compute: Callable[[], tf.Tensor]) -> tf.Tensor:
    """`compute()`, or what it returned before within the same block of `sharing`.

    Only tensors of this graph or of one around it are returned, as those outside of a loop's body:
    evaluate once before the loop.
    """
    values = current().shared
    if values is None:
        return compute()
    graphs = _graphs()
    for graph in graphs:
        if (graph, id(owner)) in values:
            return values[graph, id(owner)][1]
    value = compute()
    values[graphs[0], id(owner)] = owner, value  # the owner too, or another could get its id
    return value


def _graphs() -> list[Any]:
    """Where tensors come from that can be used here: this graph first, then those around it."""
    if tf.executing_eagerly():
        return [None]
    graphs = [tf.compat.v1.get_default_graph()]
    while (outer := private.outer_graph(graphs[-1])) is not None:
        graphs.append(outer)
    return graphs


_settings_version = 0


def settings_changed() -> None:
    """Invalidates whatever is cached by `Evaluation.key`: a setting that is not a variable changed.

    One version for all bijectors and threads. A version of each bijector would cost a walk through
    all parts of a flow at every call, and those of a stacked template are not among its parts.
    """
    global _settings_version
    _settings_version += 1


def settings_version() -> int:
    """Differs after every change of a setting, which makes traced functions out of date."""
    return _settings_version
