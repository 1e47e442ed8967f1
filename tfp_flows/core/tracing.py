"""Evaluations that always run in a graph, also when they are called eagerly."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_flows.core.evaluation import add_penalty, collecting_penalties, current


class InGraph:
    """Runs `method(value, context, forward, **settings)` in a `tf.function`, also from eager mode.

    For loops, which are slow in eager mode, and for substituted variables, which eager ops do not
    see. It does so under `tf.config.run_functions_eagerly(True)` too. There is one trace for each
    `Evaluation.key`, and it serves all batch sizes. Penalties are results of the graph.

    Args:
      method: an evaluation of a bijector.
    """

    def __init__(self, method: Callable):
        self._method = method
        self._traced: dict[tuple, Callable] = {}
        self._tracing = threading.RLock()

    def __call__(self, value: tf.Tensor, context, event_ndims: int, forward: bool, **settings):
        """Evaluates; `event_ndims` of `value`'s last dimensions are static in the trace.

        Settings, which must be hashable, have a trace for each of their values.
        """
        if not tf.executing_eagerly():
            return self._method(value, context, forward, **settings)
        specs = [_open_batch(value, event_ndims)]
        if context is not None:
            specs.append(_open_batch(context, 1))
        key = (forward, current().key, *settings.items(), *specs)
        args = [value] if context is None else [value, context]
        if key not in self._traced:
            with self._tracing:  # TensorFlow would count the threads that wait as retracing
                if key not in self._traced:
                    evaluate = functools.partial(self._method, forward=forward, **settings)
                    function = tf.function(
                        _Traceable(self, evaluate), input_signature=specs, autograph=False
                    )
                    result, self._traced[key] = _called(function, args), function
                    return _hand_over(*result)
        return _hand_over(*_called(self._traced[key], args))


def run_in_graph(function: Callable[[], Any]) -> Any:
    """`function()` in a graph, traced at every call from eager mode: for rare calls."""
    if not tf.executing_eagerly():
        return function()
    return tf.function(function, autograph=False).get_concrete_function()()


def _called(function: Callable, args: list[tf.Tensor]) -> Any:
    """Calls a `tf.function` as a graph, also under `tf.config.run_functions_eagerly(True)`."""
    if tf.config.functions_run_eagerly():
        return function.get_concrete_function()(*args)
    return function(*args)


def _hand_over(result: Any, penalties: list[tf.Tensor]) -> Any:
    """Returns the result, and adds the penalties to those collected outside of the graph."""
    for penalty in penalties:
        add_penalty(penalty)
    return result


class _Traceable:
    """A function whose identity is its owner, for TensorFlow's warning of frequent retracing.

    By default that is its line of code, so first traces of many flows would count as retracing.
    """

    def __init__(self, owner: InGraph, function: Callable):
        self._owner = owner
        self._function = function

    def __call__(self, value, context=None):
        if not current().collects_penalties:
            return self._function(value, context), []
        with collecting_penalties() as found:
            result = self._function(value, context)
        return result, found

    def __eq__(self, other):
        return isinstance(other, _Traceable) and self._owner is other._owner

    def __hash__(self):
        return id(self._owner)


def _open_batch(tensor: tf.Tensor, event_ndims: int) -> tf.TensorSpec:
    batch_ndims = tensor.shape.rank - event_ndims
    if 0 in tensor.shape[:batch_ndims]:  # networks must know that there is nothing to do
        return tf.TensorSpec(tensor.shape, tensor.dtype)
    return tf.TensorSpec([None] * batch_ndims + tensor.shape[batch_ndims:], tensor.dtype)
