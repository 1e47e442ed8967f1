"""Evaluations that always run in a graph, whoever calls them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import tensorflow as tf

from tfp_flows.keras_engine import keras


class InGraph:
    """Runs `method(value, context, forward, **settings)` in a `tf.function`, also from eager mode.

    For loops, which are slow in eager mode, and for stand-ins of variables, which eager ops
    would not see. One trace serves all batch sizes.

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
        key = (forward, in_training(), *settings.items(), *specs)
        args = [value] if context is None else [value, context]
        if key not in self._traced:
            with self._tracing:  # all who wait for a trace would be taken for ones that retrace
                if key not in self._traced:
                    evaluate = functools.partial(self._method, forward=forward, **settings)
                    function = tf.function(
                        _Traceable(self, evaluate), input_signature=specs, autograph=False
                    )
                    result, self._traced[key] = function(*args), function
                    return result
        return self._traced[key](*args)


class _Traceable:
    """A function that TensorFlow knows by its owner when it warns of frequent retracing.

    It would go by the line of code else, and take the first traces of many flows for retraces.
    """

    def __init__(self, owner: InGraph, function: Callable):
        self._owner = owner
        self._function = function

    def __call__(self, value, context=None):
        return self._function(value, context)

    def __eq__(self, other):
        return isinstance(other, _Traceable) and self._owner is other._owner

    def __hash__(self):
        return id(self._owner)


class _Mode(keras.layers.Layer):
    """Tells whether the Keras model that is being called is in training mode."""

    def call(self, _, training=None):
        return bool(training)


_mode = _Mode(name="mode")  # a name that graphs take


def in_training() -> bool:
    """Whether a Keras model is being called in training mode; False outside of any model."""
    return _mode(tf.constant(0.0))


def _open_batch(tensor: tf.Tensor, event_ndims: int) -> tf.TensorSpec:
    batch_ndims = tensor.shape.rank - event_ndims
    if 0 in tensor.shape[:batch_ndims]:  # networks must know that there is nothing to do
        return tf.TensorSpec(tensor.shape, tensor.dtype)
    return tf.TensorSpec([None] * batch_ndims + tensor.shape[batch_ndims:], tensor.dtype)
