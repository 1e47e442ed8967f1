"""Variables that read as given tensors for a while: how one network serves many parameters."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfp_flows.core import private
from tfp_flows.core.evaluation import current, evaluating
from tfp_flows.core.variables import UntrackedVariableError, components

# One thread at a time gives values; for the others the variables are as ever.
_LOCK = threading.RLock()


@contextlib.contextmanager
def substituted(
    variables: Sequence[tf.Variable], tensors: Sequence[tf.Tensor]
) -> Iterator[dict[int, tf.Tensor]]:
    """Within the block, every variable reads as its tensor, and what is assigned is kept apart.

    Gradients then flow to the tensors, through networks of any kind. Only for graphs in the
    making: eager ops read variables past Python.

    Args:
      variables: of any kind that TensorFlow or either Keras makes.
      tensors: one for each variable, of its dtype.

    Yields:
      What the block assigned, by position: later reads within the block see it.

    Raises:
      RuntimeError: called in eager mode.
      UntrackedVariableError: an op uses a variable all the same, such as the call of a
        `tf.function`, a scatter update or an op of `tf.raw_ops`.
    """
    if tf.executing_eagerly():
        raise RuntimeError("Variables can be given other values inside a tf.function only.")
    assigned: dict[int, tf.Tensor] = {}
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    with _LOCK, evaluating(substituting=True, shared=None), contextlib.ExitStack() as undo:
        for place, (variable, tensor) in enumerate(zip(variables, tensors, strict=True)):
            _substitute(place, variable, tensor, assigned, undo)
        yield assigned
    _refuse_bypasses(graph, graph.get_operations()[before:], variables)


def _refuse_bypasses(graph: tf.Graph, ops: Sequence[tf.Operation], variables) -> None:
    """Raises if one of the ops uses a variable by its handle, past all that Python can replace."""
    owners = {id(c.handle): v for v in variables for c in components(v)}
    for outer, inner in private.captures(graph):
        if id(outer) in owners:
            owners[id(inner)] = owners[id(outer)]
    used = [(owners[id(t)].name, op.type) for op in ops for t in op.inputs if id(t) in owners]
    if used:
        uses = ", ".join(f"{name} ({kind})" for name, kind in sorted(set(used)))
        raise UntrackedVariableError(
            f"A network uses variables where they cannot be given the parameters of each step: "
            f"{uses}. A variable inside a tf.function of its own is one (remove that tf.function: "
            "the flow is compiled as a whole), and scatter updates and tf.raw_ops are others: "
            "read it by its value, and write it by assign."
        )


def is_substituted(component: tf.Variable) -> bool:
    """Whether a block of `substituted`, in this thread, says what this variable reads as."""
    return current().substituting and private.is_replaced(component)


def _substitute(place, variable, tensor, assigned, undo) -> None:
    def read():
        return assigned.get(place, tensor)

    def write(combine):
        def assign(value, *_, **__):
            assigned[place] = combine(read(), tf.cast(value, tensor.dtype))
            return assigned[place]

        return assign

    methods = {
        "assign": write(lambda old, new: new),
        "assign_add": write(tf.add),
        "assign_sub": write(tf.subtract),
    }
    for holder in {id(h): h for h in (variable, *components(variable))}.values():
        _patch(holder, methods, undo)
    for component in components(variable):
        _patch(component, private.read_methods(read), undo)


def _patch(holder, methods: dict, undo: contextlib.ExitStack) -> None:
    """Gives one object methods of its own until `undo` closes; blocks may be nested."""
    for name, method in methods.items():
        before = vars(holder).get(name)
        object.__setattr__(holder, name, _in_this_thread(method, getattr(holder, name)))
        if before is None:
            undo.callback(object.__delattr__, holder, name)
        else:
            undo.callback(object.__setattr__, holder, name, before)


def _in_this_thread(method: Callable, elsewhere: Callable) -> Callable:
    return lambda *args, **kwargs: (method if current().substituting else elsewhere)(
        *args, **kwargs
    )
