"""One evaluation for a value and its log-det, and never a stale one.

TFP asks a bijector for `inverse(y)` and then for `forward_log_det_jacobian(x)`, in separate
calls, so an expensive conditioner would run twice. TFP's own answer is a cache keyed on tensor
identity, which in eager mode outlives updates of the variables. `PairMemo` stands in its place
(a bijector's `_cache`): it answers only while

* the tensor is the very object that went in or came out,
* no variable of the bijector has changed since (eager: their values are compared by hash;
  in a graph: no op that writes them was added),
* the current `Evaluation` has the same `key`, and
* the gradient tapes that watch now are the ones that recorded the evaluation.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_flows.core import private
from tfp_flows.core.evaluation import current
from tfp_flows.core.substitution import is_substituted
from tfp_flows.core.variables import components

_OTHER = {"forward": "inverse", "inverse": "forward"}


class _Note(NamedTuple):
    argument: Any  # callable that returns the tensor the note is about, or None once it died
    value: Any  # callable that returns the tensor on the other side, or None once it died
    log_det: tf.Tensor
    context: Any
    state: tuple


class PairMemo:
    """The `_cache` of a `FlowBijector`: has the four methods that `tfb.Bijector` calls."""

    def __init__(self, bijector):
        self._bijector = weakref.ref(bijector)
        self._eager_notes: dict[tuple[str, int], _Note] = {}

    def forward(self, x, context=None):
        return self._evaluate("forward", x, context)[0]

    def inverse(self, y, context=None):
        return self._evaluate("inverse", y, context)[0]

    def forward_attributes(self, x, context=None):
        return {"ildj": -self._log_det("forward", x, context)}

    def inverse_attributes(self, y, context=None):
        return {"ildj": self._log_det("inverse", y, context)}

    def _log_det(self, direction, tensor, context):
        note = self._find(direction, tensor, context)
        return note.log_det if note else self._evaluate(direction, tensor, context)[1]

    def _evaluate(self, direction, tensor, context):
        note = self._find(direction, tensor, context)
        if note and note.value() is not None:
            return note.value(), note.log_det
        bijector = self._bijector()
        compute = getattr(bijector, f"checked_{direction}_and_log_det")
        value, log_det = compute(tensor, context)
        if value is not tensor:  # an identity needs no note, and would confuse its two sides
            self._write(direction, tensor, value, log_det, context)
        return value, log_det

    def _find(self, direction, tensor, context) -> _Note | None:
        note = self._notes().get((direction, id(tensor)))
        if (
            note is None
            or note.argument() is not tensor
            or note.context is not context
            or not (context is None or tf.is_tensor(context))  # others can change in place
            or note.state != self._state(tensor, note.value(), note.log_det)
        ):
            return None
        return note

    def _write(self, direction, argument, value, log_det, context) -> None:
        notes, minus = self._notes(), -log_det
        there, back = (direction, id(argument)), (_OTHER[direction], id(value))
        if tf.executing_eagerly():
            # The output keeps the input alive, not the other way round: no cycle, no leak.
            held = weakref.ref(argument, lambda _: notes.pop(there, None))
            given = weakref.ref(value, lambda _: notes.pop(back, None))
            keep = lambda: argument  # noqa: E731
        else:
            # A graph owns its tensors and its notes, and takes both along when it goes.
            held, given, keep = (lambda: argument), (lambda: value), (lambda: argument)
        notes[there] = _Note(held, given, log_det, context, self._state(argument, value, log_det))
        notes[back] = _Note(given, keep, minus, context, self._state(value, argument, minus))

    def _notes(self) -> dict:
        if tf.executing_eagerly():
            return self._eager_notes
        return private.owned_by_graph(
            tf.compat.v1.get_default_graph(), ("tfp_flows_notes", id(self))
        )

    def _state(self, *tensors) -> tuple:
        """What must be unchanged for a note to hold: the variables, and the tapes at work."""
        probes = [t for t in tensors if t is not None]
        own = [v for v in self._components() if v.trainable and not is_substituted(v)]
        for variable in own[:1]:  # a tape within a tape shows itself by watching it
            private.watch(variable)
            probes.append(variable.handle)
        # 0, 1 or 2 for each: recorded by no tape, by one, or by several.
        tapes = private.recording(probes)
        return (*tapes, self.epoch())

    def epoch(self) -> int:
        """Differs once a variable has changed, or what watches and trains is another.

        That is whether a tape watches, and the current `Evaluation`.
        """
        return hash((private.no_tape(), current().key, self.fingerprint()))

    def fingerprint(self) -> tuple[int, ...] | int:
        """Equal while no variable has changed: hashes of values; in a graph, a count of writes."""
        if tf.executing_eagerly():
            return tuple(hash(v.numpy().tobytes()) for v in self._variables())
        graph = tf.compat.v1.get_default_graph()
        return _count_writes(graph, {id(v.handle) for v in self._components()})

    def _components(self) -> list[tf.Variable]:
        return [c for v in self._variables() for c in components(v)]

    def _variables(self) -> list[tf.Variable]:
        # Integers are the states of random generators, which each call moves on by itself.
        try:
            owned = self._bijector().variables
        except ValueError:  # a conditioner that is not built yet has no values to change
            return []
        return sorted((v for v in owned if v.dtype.is_floating), key=lambda v: not v.trainable)


def _count_writes(graph, handles: set[int]) -> int:
    """How many ops of `graph` may write the variables with these handles."""
    index = private.owned_by_graph(graph, "tfp_flows_writes")
    touched = index.setdefault("touched", [])  # for each op that may write: what it may write
    ops = graph.get_operations()
    for op in ops[index.get("scanned", 0) :]:
        if op.type != "ReadVariableOp":
            resources = [id(t) for t in op.inputs if t.dtype == tf.resource]
            if resources:
                touched.append(resources)
    index["scanned"] = len(ops)
    ours = handles | {id(inner) for outer, inner in private.captures(graph) if id(outer) in handles}
    return sum(any(r in ours for r in resources) for resources in touched)
