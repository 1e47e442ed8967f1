"""Variables that read as given tensors for a while: how one network serves many parameters."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfp_flows.core.variables import UntrackedVariableError, components

_LOCK = threading.RLock()  # one thread at a time gives values
_LOCAL = threading.local()  # which one: for the others the variables are as ever


@contextlib.contextmanager
def reading(
    variables: Sequence[tf.Variable], tensors: Sequence[tf.Tensor]
) -> Iterator[dict[int, tf.Tensor]]:
    """Within the block, every variable reads as its tensor, and cannot be written.

    Gradients then flow to the tensors, through networks of any kind. Only for graphs in the
    making: eager ops read variables past Python.

    Args:
      variables: of any kind that TensorFlow or either Keras makes.
      tensors: one for each variable, of its dtype.

    Yields:
      What the block assigned, by position: later reads within the block see it.

    Raises:
      RuntimeError: called in eager mode.
      UntrackedVariableError: a variable was read all the same, by a `tf.function` of its own.
    """
    if tf.executing_eagerly():
        raise RuntimeError("Variables can be given other values inside a tf.function only.")
    assigned: dict[int, tf.Tensor] = {}
    with _LOCK, _here(), contextlib.ExitStack() as undo:
        for place, (variable, tensor) in enumerate(zip(variables, tensors, strict=True)):
            _stand_in(place, variable, tensor, assigned, undo)
        with tf.GradientTape() as tape:
            yield assigned
        read = {id(v) for v in tape.watched_variables()}
        bypassed = [v.name for v in variables if read & {id(c) for c in components(v)}]
        if bypassed:
            raise UntrackedVariableError(
                f"A network reads {', '.join(bypassed)} inside a tf.function of its own, where "
                "it cannot be given the parameters of each step. Remove that tf.function: the "
                "flow is compiled as a whole."
            )


def is_given(component: tf.Variable) -> bool:
    """Whether a block of `reading`, in this thread, says what this variable reads as."""
    return _is_here() and "_read_variable_op" in vars(component)


@contextlib.contextmanager
def _here() -> Iterator[None]:
    before, _LOCAL.reads = _is_here(), True
    try:
        yield
    finally:
        _LOCAL.reads = before


def _is_here() -> bool:
    return getattr(_LOCAL, "reads", False)


def _stand_in(place, variable, tensor, assigned, undo) -> None:
    def read(*_, **__):
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
        gather = {"sparse_read": lambda indices, name=None: tf.gather(read(), indices)}
        _patch(component, {"_read_variable_op": read, **gather}, undo)


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
    return lambda *args, **kwargs: (method if _is_here() else elsewhere)(*args, **kwargs)
