"""One evaluation for a value and its log-det in a graph, and nowhere an outdated value.

TFP calls `inverse(y)` and then `forward_log_det_jacobian(x)`, and its containers call their parts
once more, so an expensive conditioner would run two or three times. TFP's own answer is a cache
keyed by the identity of tensors, which in eager mode outlives updates of the variables.
`Memo` replaces it, and answers where that is both right and cheap:

* In a graph, while no op was added that may write a variable of the bijector, the `Evaluation` is
  the same, and the gradient tapes at work are those that recorded the evaluation.
* In eager mode within a block of `sharing`, where no variable changes.
* In eager mode while a Keras model is being trained, from the latest evaluation: dropout and the
  statistics of a batch would differ in a second one. That compares the values of all variables.
* Elsewhere in eager mode never: finding out whether variables have changed costs more than most
  evaluations. `Chain`, `Flow`, `forward_and_log_det` and `inverse_and_log_det` evaluate once
  without any memo.
"""

from __future__ import annotations

import collections
import itertools
import weakref
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_flows.core import private
from tfp_flows.core.evaluation import current, shared
from tfp_flows.core.substitution import is_substituted
from tfp_flows.core.variables import components

_OPPOSITE = {"forward": "inverse", "inverse": "forward"}
_numbers = itertools.count()


class Memo:
    """The `_cache` of a `FlowBijector`: has the four methods that `tfb.Bijector` calls.

    Args:
      bijector: the bijector whose evaluations it remembers.
    """

    def __init__(self, bijector: Any):
        self._bijector = weakref.ref(bijector)
        self._latest = _LatestEntry()

    def forward(self, x: tf.Tensor, context: Any = None) -> tf.Tensor:
        return self._evaluate("forward", x, context)[0]

    def inverse(self, y: tf.Tensor, context: Any = None) -> tf.Tensor:
        return self._evaluate("inverse", y, context)[0]

    def forward_attributes(self, x: tf.Tensor, context: Any = None) -> dict[str, tf.Tensor]:
        return {"ildj": -self._evaluate("forward", x, context)[1]}

    def inverse_attributes(self, y: tf.Tensor, context: Any = None) -> dict[str, tf.Tensor]:
        return {"ildj": self._evaluate("inverse", y, context)[1]}

    def key(self) -> tuple:
        """Equal for two moments only if a cache keyed by it may answer the second by the first."""
        entries = self._entries()
        if entries is None:
            return (next(_numbers),)
        return entries.number, *entries.state()

    def _evaluate(self, direction: str, tensor: tf.Tensor, context: Any):
        """Value and log-det, remembered or computed."""
        bijector, entries = self._bijector(), self._entries()
        evaluate = getattr(bijector, f"{direction}_and_log_det")
        if entries is None or not (context is None or isinstance(context, tf.Tensor)):
            return evaluate(tensor, context=context)
        entry = entries.find(direction, tensor, context)
        if entry is None:
            value, log_det = evaluate(tensor, context=context)
            # The two sides of an identity would be confused.
            if value is tensor or not entries.follow(bijector):
                return value, log_det
            entry = entries.add(direction, tensor, value, log_det, context)
        return entry.value, entry.log_det

    def _entries(self) -> _Entries | None:
        """What is remembered here; None where nothing is."""
        if tf.executing_eagerly():
            if current().shared is not None:
                return shared(self, _Entries)
            if current().in_training:
                return self._latest
            self._latest.clear()
            return None
        owned = private.owned_by_graph(tf.compat.v1.get_default_graph(), self)
        if "entries" not in owned:
            owned["entries"] = _Entries()
        return owned["entries"]


class _Entry(NamedTuple):
    argument: tf.Tensor
    value: tf.Tensor
    log_det: tf.Tensor
    context: tf.Tensor | None
    state: tuple


class _Entries:
    """Evaluations of one bijector, owned by the graph or the block of `sharing` around them."""

    def __init__(self):
        self.number = next(_numbers)
        self._entries: dict[tuple[str, int], _Entry] = {}
        self._variables: list[tf.Variable] = []

    def find(self, direction: str, tensor: tf.Tensor, context: Any) -> _Entry | None:
        entry = self._entries.get((direction, id(tensor)))
        if entry is None or entry.context is not context:
            return None
        return entry if entry.state == self._state_of(*entry[:3]) else None

    def add(self, direction, argument, value, log_det, context) -> _Entry:
        """Remembers an evaluation, and its inverse; returns the entry of the evaluation."""
        there = direction, argument, value, log_det
        back = _OPPOSITE[direction], value, argument, -log_det
        for direction, *tensors in (back, there):
            entry = _Entry(*tensors, context, self._state_of(*tensors))
            self._entries[direction, id(entry.argument)] = entry
        return entry

    def follow(self, bijector: Any) -> bool:
        """Looks up the variables, which an evaluation may have made; returns whether all exist."""
        try:
            variables = bijector.variables
        except ValueError:  # another conditioner of the bijector is not built yet
            return False
        # Integers are the states of random generators, which each evaluation moves on by itself.
        owned = [v for v in variables if v.dtype.is_floating]
        owned.sort(key=lambda v: not v.trainable)
        self._variables = [c for v in owned for c in components(v)]
        return True

    def state(self) -> tuple:
        """Equal while no variable was written, and the `Evaluation` is the same."""
        writes = 0
        if not tf.executing_eagerly():
            graph = tf.compat.v1.get_default_graph()
            index = private.owned_by_graph(graph, "tfp_flows_writes")
            writes = index.setdefault("writes", _Writes()).count(graph, self._variables)
        return private.no_tape(), current().key, writes

    def _state_of(self, *tensors: tf.Tensor) -> tuple:
        """What must be equal for an entry to hold: also which tapes record its tensors."""
        probes = list(tensors)
        for variable in self._variables[:1]:  # a tape within a tape shows itself by watching it
            if variable.trainable and not is_substituted(variable):
                private.watch(variable)
                probes.append(variable.handle)
        # 0, 1 or 2 for each: recorded by no tape, by one, or by several.
        return *private.recording(probes), *self.state()


class _LatestEntry(_Entries):
    """The latest evaluation alone, which holds while the variables have the same values."""

    def add(self, direction, argument, value, log_det, context) -> _Entry:
        self.clear()
        return super().add(direction, argument, value, log_det, context)

    def clear(self) -> None:
        """Forgets the evaluation, and with it the tensors."""
        self._entries.clear()

    def state(self) -> tuple:
        return *super().state(), *(hash(v.numpy().tobytes()) for v in self._variables)


class _Writes:
    """Counts the ops of a graph that may write a variable; looks at each op once."""

    def __init__(self):
        self._counts: collections.Counter[int] = collections.Counter()  # by id of the handle
        self._handles: dict[int, int] = {}  # of outer tensors: what stands for them here
        self._scanned = 0

    def count(self, graph: tf.Graph, variables: list[tf.Variable]) -> int:
        """How many ops of `graph` may write one of `variables`."""
        ops = graph.get_operations()
        for op in ops[self._scanned :]:
            if op.type != "ReadVariableOp":
                self._counts.update(id(t) for t in op.inputs if t.dtype == tf.resource)
        self._scanned = len(ops)
        captures = private.captures(graph)
        for outer, inner in captures[len(self._handles) :]:
            self._handles[id(outer)] = id(inner)
        handles = (id(v.handle) for v in variables)
        return sum(self._counts[self._handles.get(h, h)] for h in handles)
