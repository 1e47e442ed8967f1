"""Variables that read as given tensors within a block: one network with many parameters."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfp_flows.core import private
from tfp_flows.core.evaluation import current, evaluating
from tfp_flows.core.variables import UntrackedVariableError, components

# One thread at a time substitutes; the others read the variables themselves.
_LOCK = threading.RLock()


@contextlib.contextmanager
def substituted(
    variables: Sequence[tf.Variable], tensors: Sequence[tf.Tensor]
) -> Iterator[dict[int, tf.Tensor]]:
    """Within the block, every variable reads as its tensor, and assignments go to a dict.

    Gradients then flow to the tensors, through networks of any kind. Only while a graph is built:
    eager ops read variables without calling their Python methods.

    Args:
      variables: of any kind that TensorFlow or either Keras makes.
      tensors: one for each variable, of its dtype.

    Yields:
      What the block assigned, by position: later reads within the block see it.

    Raises:
      RuntimeError: if called in eager mode.
      UntrackedVariableError: if an op uses a variable by its handle, such as the call of a
        `tf.function`, a scatter update or an op of `tf.raw_ops`.
    """
    if tf.executing_eagerly():
        raise RuntimeError("Variables can be substituted inside a tf.function only.")
    assigned: dict[int, tf.Tensor] = {}
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    with _LOCK, evaluating(substituting=True, shared=None), contextlib.ExitStack() as undo:
        for index, (variable, tensor) in enumerate(zip(variables, tensors, strict=True)):
            _substitute(index, variable, tensor, assigned, undo)
        yield assigned
    _validate_no_handles(graph, graph.get_operations()[before:], variables)


def _validate_no_handles(
    graph: tf.Graph, ops: Sequence[tf.Operation], variables: Sequence[tf.Variable]
) -> None:
    """Raises if one of the ops uses a variable by its handle, which cannot be substituted."""
    owners = {id(c.handle): v for v in variables for c in components(v)}
    for outer, inner in private.captures(graph):
        if id(outer) in owners:
            owners[id(inner)] = owners[id(outer)]
    used = [(owners[id(t)].name, op.type) for op in ops for t in op.inputs if id(t) in owners]
    if used:
        uses = ", ".join(f"{name} ({kind})" for name, kind in sorted(set(used)))
        raise UntrackedVariableError(
            f"A network uses variables where they cannot be replaced by the parameters of each "
            f"step: {uses}. Such uses are a tf.function around a part of the network (remove it: "
            "the flow is compiled as a whole), scatter updates and tf.raw_ops (read variables by "
            "their value, and write them by assign)."
        )


def is_substituted(component: tf.Variable) -> bool:
    """Whether this variable is substituted in this thread."""
    return current().substituting and private.is_replaced(component)


def _substitute(
    index: int,
    variable: tf.Variable,
    tensor: tf.Tensor,
    assigned: dict[int, tf.Tensor],
    undo: contextlib.ExitStack,
) -> None:
    """Replaces the methods that read and write one variable until `undo` closes."""

    def read() -> tf.Tensor:
        return assigned.get(index, tensor)

    def write(combine: Callable) -> Callable:
        def assign(value, *_, **__):
            assigned[index] = combine(read(), tf.cast(value, tensor.dtype))
            return assigned[index]

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


def _patch(holder: tf.Variable, methods: dict[str, Callable], undo: contextlib.ExitStack) -> None:
    """Replaces methods of one object until `undo` closes; blocks may be nested."""
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
