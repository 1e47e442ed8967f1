"""Every private API of TensorFlow, TFP and Keras that this package uses: one function each.

Each docstring says what breaks where the API goes, and `tests/test_private.py` calls each of them.
Hooks that TFP and TensorFlow make for subclasses (`_log_prob`, `_forward`, `_parameter_properties`,
`_no_dependency` and the like) are overridden where they belong, and are not listed here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras as keras_3
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow.python import pywrap_tfe
from tensorflow_probability.python.bijectors.chain import _Chain
from tensorflow_probability.python.distributions.transformed_distribution import (
    _TransformedDistribution,
)

tfb = tfp.bijectors

# What `tfd.TransformedDistribution(...)` and `tfb.Chain(...)` make where a bijector is, as ours,
# not a composite tensor. The public classes turn every subclass into one. Without them `Flow` would
# be a `tfd.Distribution` of its own, and `FlowHealth` would take a `tfb.Chain` for one layer.
TransformedDistribution = _TransformedDistribution
TFPChain = _Chain


# TensorFlow: tapes, graphs, variables.


def recording(tensors: Sequence[Any]) -> list[int]:
    """How many tapes record each tensor: 0, 1, or 2 for several.

    Without it the memo cannot tell whether an earlier evaluation has the gradients that are wanted
    now, and has to forget it.
    """
    return [pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes([t]) for t in tensors]


def watch(variable: tf.Variable) -> None:
    """Lets the tapes at work watch a variable, as a read would; for `recording`."""
    pywrap_tfe.TFE_Py_TapeVariableAccessed(variable)


def no_tape() -> bool:
    """Whether no tape is at work. Without it the memo would assume one."""
    return pywrap_tfe.TFE_Py_TapeSetIsEmpty()


def outer_graph(graph: tf.Graph) -> tf.Graph | None:
    """The graph around that of a function or a loop's body; without it nothing is shared."""
    return getattr(graph, "outer_graph", None)


def captures(graph: tf.Graph) -> Iterable[tuple[tf.Tensor, tf.Tensor]]:
    """`(outer, inner)` tensors of a function's graph; without it writes in loops are not seen."""
    return getattr(graph, "captures", ())


def owned_by_graph(graph: tf.Graph, key: Any) -> dict:
    """A dict that lives and dies with `graph`, kept as one of its collections.

    Without it the memo would keep graphs alive.
    """
    owned = graph.get_collection_ref((key, id(graph)))  # inner graphs inherit collections
    if not owned:
        owned.append({})
    return owned[0]


def set_trainable(variable: tf.Variable, trainable: bool) -> None:
    """Freezes one variable, or lets it be trained again; without it layers cannot be frozen."""
    variable._trainable = trainable


def read_methods(read: Callable[[], tf.Tensor]) -> dict[str, Callable]:
    """The methods through which a variable is read, to be replaced by `read`.

    Without them stacked parameters and reversible backpropagation have no way to give a network
    other values than its own.
    """
    return {
        "_read_variable_op": lambda *_, **__: read(),
        "sparse_read": lambda indices, name=None: tf.gather(read(), indices),
        "gather_nd": lambda indices, name=None: tf.gather_nd(read(), indices),
    }


def is_replaced(variable: tf.Variable) -> bool:
    """Whether `read_methods` are in place on this variable."""
    return "_read_variable_op" in vars(variable)


def attributes(module: tf.Module, predicate: Callable[[Any], bool]) -> list[tuple[tuple, Any]]:
    """`(path of attributes, leaf)` of a module's leaves; without it only arguments have names."""
    return list(module._flatten(predicate=predicate, with_path=True, expand_composites=True))


def has_other_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether a `MultiWorkerMirroredStrategy` has other workers; without it one always does."""
    return strategy.extended._in_multi_worker_mode()


# TFP.


def is_injective(bijector: tfb.Bijector) -> bool:
    """Whether a bijector is injective; without it `tfb.AbsoluteValue` is not refused early."""
    return bijector._is_injective


def is_increasing(bijector: tfb.Bijector, **kwargs) -> Any:
    """Whether a scalar bijector is increasing; without it flows have no `cdf`."""
    return bijector._internal_is_increasing(**kwargs)


# Keras, of either engine.


def sublayers(layer: Any) -> list[Any]:
    """A Keras layer and all layers in it; public `layers` has only those of a `Model`.

    Without it checks of networks (dropout, precision, regularisers) do not reach inner layers.
    """
    return [layer, *layer._flatten_layers(include_self=False)]


def tf_variable(variable: Any) -> tf.Variable:
    """The `tf.Variable` behind a Keras 3 variable; a `tf.Variable` stays itself.

    Public `.value` is a cast copy under autocast. Without it mixed precision would not train.
    """
    if isinstance(variable, tf.Variable):
        # tf_keras wraps under mixed precision. To ask a replicated variable for what it does not
        # have would read it.
        return vars(variable).get("_variable", variable)
    return variable._value


def keras_modes() -> tuple[bool, bool]:
    """Whether a model of Keras 3, and whether one of tf_keras, is being called in training mode.

    Without it `BatchNorm` and noise would have to be told the mode by hand.
    """
    context = keras_3.src.backend.common.global_state.get_global_attribute("current_call_ctx")
    legacy = tf_keras.src.engine.base_layer_utils.call_context()
    return bool(getattr(context, "training", None)), bool(legacy.training)


@contextlib.contextmanager
def keras_mode(training: bool) -> Iterator[None]:
    """Within the block, layers of either engine run as in a model that is called in this mode.

    Without it dropout and batch normalisation would be in inference mode in networks of the other
    engine, and where activations are recomputed for a gradient, outside of the model's call.
    """
    of_keras_3, of_tf_keras = keras_modes()
    state = keras_3.src.backend.common.global_state
    legacy = tf_keras.src.engine.base_layer_utils.call_context()
    with contextlib.ExitStack() as stack:
        if of_keras_3 != training:
            before = state.get_global_attribute("current_call_ctx")
            context = keras_3.src.layers.layer.CallContext(entry_layer=None)
            context.training = training
            state.set_global_attribute("current_call_ctx", context)
            stack.callback(state.set_global_attribute, "current_call_ctx", before)
        if of_tf_keras != training:
            in_call = legacy.in_call
            stack.enter_context(legacy.enter(None, None, False, {"training": training}))
            legacy.in_call = in_call  # a layer that is not called by another clears its losses
        yield


def has_random_state(layer: Any) -> bool:
    """Whether a layer of tf_keras draws from a generator of its own, as dropout does."""
    return hasattr(layer, "_random_generator")


def learning_rate(optimizer: Any) -> Any:
    """The learning rate as the optimizer holds it: a variable, or a schedule.

    Public `learning_rate` is a schedule's present value. Without it schedules are not refused.
    """
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "_learning_rate", None)


def loss_scale_state(optimizer: Any) -> dict[str, tf.Variable]:
    """Variables of tf_keras's dynamic loss scale, which its files leave out."""
    return {name: v for (name, _), v in optimizer._loss_scale._weights.items()}


def apply_summed(optimizer: Any, pairs: Iterable[tuple[tf.Tensor, Any]]) -> None:
    """Keras 3's `apply_gradients` under a strategy, without the sum over replicas that it makes.

    Without it training on several replicas is refused.
    """
    if not hasattr(optimizer, "_all_reduce_sum_gradients"):
        raise NotImplementedError("This version of Keras sums gradients in another place.")
    optimizer._all_reduce_sum_gradients = list
    try:
        optimizer.apply_gradients(pairs)
    finally:  # the first replica to end does it: by then all have passed that place
        vars(optimizer).pop("_all_reduce_sum_gradients", None)


def hdf5_of(store: Any) -> Any:
    """The open `h5py.File` behind a store of weights, or None.

    Without it the checksum and the format of a file are not checked when Keras loads it.
    """
    return getattr(store, "h5_file", getattr(store, "file", None))  # Keras 3, tf_keras
