"""Variables: those of Keras layers shown to `tf.Module`, frozen ones, untracked ones."""

from __future__ import annotations

import collections.abc
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from tfp_flows.core import private


class UntrackedVariableError(ValueError):
    """Raised where a call reads trainable variables that its owner does not track."""

    __init__ = Exception.__init__  # AutoGraph keeps the type of just these


class LiveVariables(collections.abc.Sequence):
    """The `tf.Variable`s of Keras layers of either engine, always up to date.

    A Keras 3 layer is not a `tf.Module`, so a module with one as an attribute does not have its
    variables. `tf.Module` flattens sequences, so a module with this one as an attribute has them.

    Args:
      net: a layer, or a `tf.Module` that may hold some; see `held_layers`.
    """

    def __init__(self, net: Any):
        self._net = net

    def _variables(self) -> list[tf.Variable]:
        layers = held_layers(self._net)
        if not all(layer.built for layer in layers):
            raise ValueError(repr(self))
        trained = {id(v) for layer in layers for v in layer.trainable_variables}
        variables = []
        for view in (v for layer in layers for v in layer.variables):
            variable = private.tf_variable(view)
            set_trainable(variable, id(view) in trained)  # a frozen layer freezes what TFP sees
            variables.append(variable)
        return variables

    def __repr__(self) -> str:  # which tf.Module puts into its own error
        unbuilt = [layer.name for layer in held_layers(self._net) if not layer.built]
        if not unbuilt:
            return f"LiveVariables({self._variables()!r})"
        return (
            f"conditioner '{unbuilt[0]}', which is not built, so its variables do not exist yet. "
            "Give it an Input layer, call its build(input_shape), or evaluate the flow once on a "
            "batch, before asking for variables."
        )

    def __len__(self) -> int:
        return len(self._variables())

    def __iter__(self) -> Iterator[tf.Variable]:  # once for all; a Sequence's is by index
        return iter(self._variables())

    def __getitem__(self, index):
        return self._variables()[index]


def given_or_new(
    variable: tf.Variable | None, initial: Any, name: str, **settings: Any
) -> tf.Variable:
    """The variable, or where none is given a new one with this initial value."""
    return tf.Variable(initial, name=name, **settings) if variable is None else variable


def is_keras_layer(net: Any) -> bool:
    """Whether `net` is a layer of Keras 3 or of tf_keras."""
    return isinstance(net, keras.layers.Layer | tf_keras.layers.Layer)


def held_layers(net: Any) -> list[Any]:
    """A Keras layer itself; of a `tf.Module`, the layers of Keras 3 that it and its parts hold."""
    if is_keras_layer(net):
        return [net]
    modules = [net, *net.submodules] if isinstance(net, tf.Module) else []
    leaves = [leaf for m in modules for value in vars(m).values() for leaf in _leaves(value)]
    found = {id(leaf): leaf for leaf in leaves if isinstance(leaf, keras.layers.Layer)}
    return list(found.values())


def _leaves(value: Any) -> list[Any]:
    try:
        return tf.nest.flatten(value)
    except (TypeError, ValueError):  # variables that do not exist yet, or keys without an order
        return []


def components(variable: tf.Variable) -> list[tf.Variable]:
    """The variable itself; under a `tf.distribute.Strategy`, its copies on the replicas."""
    return list(getattr(variable, "values", [variable]))


def set_trainable(variable: tf.Variable, trainable: bool) -> None:
    """Freezes a variable, or makes it trainable again."""
    for holder in (variable, *components(variable)):
        private.set_trainable(holder, trainable)


class FrozenByNetworks:
    """Makes setting `trainable` an error, where it would be an attribute without any effect."""

    @property
    def trainable(self):
        raise AttributeError(f"{type(self).__name__} has no attribute 'trainable'.")

    @trainable.setter
    def trainable(self, value):
        raise AttributeError(
            f"{type(self).__name__}.trainable cannot be set: it would freeze nothing. Freeze "
            "networks, part.conditioner.trainable = False (in a stacked flow, those of "
            "repeat.bijector, for all steps at once; stacked=False for some of them), or all that "
            "a FlowModel trains, model.trainable = False. Give parts without a network variables "
            "that are not trained: fb.ActNorm(2, shift=tf.Variable(..., trainable=False), ...)."
        )


class Snapshot:
    """Variables with the values that they have now.

    Args:
      variables: the variables to hold.
    """

    def __init__(self, variables: Iterable[tf.Variable]):
        self._values = [(v, v.numpy()) for v in variables]

    def restore(self) -> None:
        """Assigns the values."""
        for variable, value in self._values:
            variable.assign(value)


@contextlib.contextmanager
def restored_on_error(variables: Iterable[tf.Variable]) -> Iterator[None]:
    """Restores the values of the variables if the block raises."""
    before = Snapshot(variables)
    try:
        yield
    except BaseException:  # Ctrl-C too
        before.restore()
        raise


@contextlib.contextmanager
def validate_tracked(owner: tf.Module) -> Iterator[None]:
    """Raises `UntrackedVariableError` if the block reads what `owner` does not track.

    It sees trainable variables only: those would silently stay untrained.
    """
    with tf.GradientTape() as tape:
        yield
    tracked = {id(c) for v in owner.variables for c in components(v)}  # frozen ones as well
    missing = [v for v in tape.watched_variables() if not tracked & {id(c) for c in components(v)}]
    if missing:
        names = ", ".join(f"{v.name} {tuple(v.shape)}" for v in missing)
        raise UntrackedVariableError(
            f"'{owner.name}' reads {len(missing)} trainable variable(s) that it does not track, so "
            f"they would never be trained or saved: {names}. Pass the Keras layer or tf.Module "
            "that owns them instead of a function that closes over it; a tf.Module tracks "
            "variables and layers that are attributes, or in lists and dicts that are attributes."
        )
