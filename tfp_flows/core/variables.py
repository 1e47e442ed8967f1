"""Variables in sight: who owns what, under which name, and what a call really reads."""

from __future__ import annotations

import collections.abc
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
import tf_keras


class UntrackedVariableError(ValueError):
    """A call reads trainable variables that its owner does not track."""

    __init__ = Exception.__init__  # AutoGraph keeps the type of just these


class LiveVariables(collections.abc.Sequence):
    """The `tf.Variable`s of a Keras layer (either Keras), always up to date.

    A Keras 3 layer is no `tf.Module`, so a module that merely holds one hides its
    variables. `tf.nest` walks any sequence, hence holding this one shows them.
    """

    def __init__(self, layer: Any):
        self._layer = layer

    def _variables(self) -> list[tf.Variable]:
        if not self._layer.built:
            raise ValueError(
                f"Conditioner '{self._layer.name}' is not built, so its variables do not exist "
                "yet. Give it an Input layer, call its build(input_shape), or evaluate the flow "
                "once on a batch, before asking for variables."
            )
        trained = {id(v) for v in self._layer.trainable_variables}
        variables = []
        for view in self._layer.variables:
            variable = as_tf_variable(view)
            variable._trainable = id(view) in trained  # a frozen layer freezes what TFP sees
            variables.append(variable)
        return variables

    def __len__(self) -> int:
        return len(self._variables())

    def __getitem__(self, index):
        return self._variables()[index]


def is_keras_layer(net: Any) -> bool:
    """Whether `net` is a layer of Keras 3 or of tf_keras."""
    return isinstance(net, keras.layers.Layer | tf_keras.layers.Layer)


def as_tf_variable(variable: Any) -> tf.Variable:
    """The `tf.Variable` behind a Keras 3 variable; a `tf.Variable` stays itself."""
    # `.value` of a Keras 3 variable is a cast copy under autocast; `._value` never is.
    if isinstance(variable, tf.Variable):
        return getattr(variable, "_variable", variable)  # tf_keras wraps under mixed precision
    return variable._value


def components(variable: tf.Variable) -> list[tf.Variable]:
    """The variable itself; under a `tf.distribute.Strategy`, its copies on the replicas."""
    return list(getattr(variable, "values", [variable]))


@contextlib.contextmanager
def restored_on_error(variables: Iterable[tf.Variable]) -> Iterator[None]:
    """Gives the variables their old values back if the block raises."""
    before = [(v, v.numpy()) for v in variables]
    try:
        yield
    except BaseException:  # Ctrl-C too
        for variable, value in before:
            variable.assign(value)
        raise


@contextlib.contextmanager
def refuse_untracked(owner: tf.Module) -> Iterator[None]:
    """Raises `UntrackedVariableError` if the block reads what `owner` does not track.

    Only trainable variables are seen: they are what would stay untrained in silence.
    """
    with tf.GradientTape() as tape:
        yield
    tracked = {id(c) for v in owner.trainable_variables for c in components(v)}
    missing = [v for v in tape.watched_variables() if not tracked & {id(c) for c in components(v)}]
    if missing:
        names = ", ".join(f"{v.name} {tuple(v.shape)}" for v in missing)
        raise UntrackedVariableError(
            f"'{owner.name}' reads {len(missing)} trainable variable(s) that nobody tracks, so "
            f"they would never be trained or saved: {names}. Pass the Keras layer or tf.Module "
            "that owns them in place of a function that closes over it."
        )
