"""Variable tracking: the distribution's variables as the Keras model's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_flows.core import Network, private, variable_paths
from tfp_flows.core.stack import Stack, networks
from tfp_flows.core.tracing import run_in_graph
from tfp_flows.core.variables import validate_tracked
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model.data_checks import example_context

tfd = tfp.distributions


def track_variables(flow: tfd.Distribution) -> list[Any]:
    """Returns Keras's view of every variable of `flow`, for the model to hold.

    Keras 3 does not see a `tf.Variable`, but its own `Variable` wraps one without a copy. For a
    variable of a Keras layer it is the layer's own view (with regularizer and constraint).
    tf_keras takes `tf.Variable`s as they are. The order is that of `variable_paths`, since Keras
    saves an optimizer's variables by their index.
    """
    variables = list(variable_paths(flow).values())
    if IS_LEGACY:
        return variables
    by_identity = {
        id(private.tf_variable(v)): v for layer in _layers(flow) for v in layer.variables
    }
    for stack in (m for m in flow.submodules if isinstance(m, Stack)):
        for own, stacked in stack.pairs:
            if id(own) in by_identity:
                by_identity[id(stacked)] = _stacked_view(stacked, by_identity[id(own)])
    return [_keras_view(v, by_identity) for v in variables]


def _keras_view(variable: tf.Variable, by_identity: dict[int, Any]) -> Any:
    known = by_identity.get(id(variable))
    if isinstance(known, keras.Variable):
        return known
    view = _plain_view(variable)
    if variable.constraint is not None:
        view.constraint = _Constraint(variable.constraint)
    return view


def _plain_view(variable: tf.Variable) -> Any:
    return keras.Variable(
        variable,
        name=variable.name.split("/")[-1].split(":")[0],
        dtype=variable.dtype.name,
        trainable=variable.trainable,
    )


def _stacked_view(stacked: tf.Variable, one: Any) -> Any:
    """Keras's view of the stacked copies of a layer's variable, with its rules for each copy."""
    view = _plain_view(stacked)
    if one.regularizer is not None:
        view.regularizer = lambda values: tf.add_n([one.regularizer(v) for v in tf.unstack(values)])
    if one.constraint is not None:
        view.constraint = _Constraint(
            lambda values: tf.stack([one.constraint(v) for v in tf.unstack(values)])
        )
    return view


class _Constraint(keras.constraints.Constraint):
    """A `tf.Variable`'s constraint for Keras 3, whose optimizers apply only Keras's constraints.

    TFP's masked networks depend on theirs: without it their log-dets would be wrong.
    """

    def __init__(self, function: Callable[[tf.Tensor], tf.Tensor]):
        self._function = function

    def __call__(self, value):
        return self._function(value)


def _layers(flow: tfd.Distribution) -> list[Any]:
    return [layer for n in networks(flow) for layer in n.layers]


def conditioner_losses(flow: tfd.Distribution, views: list[Any], dtype: tf.DType) -> tf.Tensor:
    """The sum of the weight regularisers that the conditioners were built with.

    Args:
      flow: the distribution.
      views: what `track_variables` returned.
      dtype: of the result.
    """
    losses = [v.regularizer(v) for v in views if getattr(v, "regularizer", None) is not None]
    losses += _legacy_losses(flow)
    for stack in (m for m in flow.submodules if isinstance(m, Stack)):
        if _legacy_layers(stack.template):
            losses += run_in_graph(functools.partial(_legacy_losses_of_steps, stack))
    return tf.add_n([tf.zeros([], dtype), *(tf.cast(loss, dtype) for loss in losses)])


def _legacy_losses_of_steps(stack: Stack) -> list[tf.Tensor]:
    losses = []
    for slices in stack.slices():
        with stack.at(slices):
            losses += _legacy_losses(stack.template)
    return losses


def _legacy_losses(module: tf.Module) -> list[tf.Tensor]:
    return [loss for layer in _legacy_layers(module) for loss in layer.losses]


def _legacy_layers(module: tf.Module) -> list[Any]:
    """The networks of tf_keras, whose variables do not know their regularisers."""
    nets = [m.net for m in module.submodules if isinstance(m, Network)]
    return [net for net in nets if isinstance(net, tf_keras.layers.Layer)]


def validate_no_activity_losses(flow: tfd.Distribution) -> None:
    """Raises ValueError if a network has a loss that depends on its activations."""
    for net in _layers(flow):
        for layer in private.sublayers(net):
            if getattr(layer, "activity_regularizer", None) is not None:
                raise ValueError(
                    f"Layer '{layer.name}' of conditioner '{net.name}' has an activity "
                    "regulariser, which would not count. Use weight regularisers or dropout."
                )


def validate_reads(flow: tfd.Distribution) -> None:
    """Raises UntrackedVariableError if `log_prob` reads variables that the flow does not track.

    Lazy networks are built on the way.
    """
    example = tf.zeros([1, *flow.event_shape], flow.dtype)
    context = example_context(flow, 1)
    flow.log_prob(example, **context)

    @tf.function(autograph=False)  # traced only: an eager tape would prepare gradients of loops
    def read():
        with validate_tracked(flow):
            flow.log_prob(example, **context)

    read.get_concrete_function()
