"""What a bijector calls to get its parameters: one adapter for every kind of network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras

from tfp_flows.core import private
from tfp_flows.core.evaluation import current
from tfp_flows.core.variables import LiveVariables, held_layers, is_keras_layer, validate_tracked


class Network(tf.Module):
    """A conditioner: a Keras 3 or tf_keras layer, a `tf.Module` or a plain function.

    It shows the network's variables to `tf.Module`, takes any number of batch dimensions where
    the network takes only one, and raises an error if the network reads untracked variables.

    Args:
      net: called as `net(x)`, or as `net(x, context)` where a context is given.
      name: a name for messages.

    Raises:
      TypeError: if `net` is not callable, or is a class.
    """

    def __init__(self, net: Any, name: str = "network"):
        if not callable(net) or isinstance(net, type):
            raise TypeError(
                f"A conditioner must be callable: a Keras layer, a tf.Module with __call__, or "
                f"a function. Got {net if isinstance(net, type) else type(net).__name__}."
            )
        super().__init__(name=name)
        self._keras_variables = LiveVariables(net)
        if is_keras_layer(net):
            # A layer of tf_keras is a tf.Module as well: it would show its variables twice, and
            # under mixed precision as other objects.
            self._TF_MODULE_IGNORED_PROPERTIES = self._TF_MODULE_IGNORED_PROPERTIES | {"_net"}
        self._net = net
        self._checked = False

    @property
    def net(self) -> Any:
        """The network itself, as it was given."""
        return self._net

    def follow_frozen(self) -> None:
        """Marks variables as trainable or not, as their layers are now."""
        list(self._keras_variables)

    @property
    def layers(self) -> list[Any]:
        """The Keras layers in it: the network itself, or those of a `tf.Module`."""
        return held_layers(self._net)

    @property
    def is_random(self) -> bool:
        """Whether a second evaluation cannot repeat the random numbers of the first.

        As with dropout of tf_keras, whose generators hide their state.
        """
        if not isinstance(self._net, tf_keras.layers.Layer):
            return False
        return any(private.has_random_state(layer) for layer in private.sublayers(self._net))

    def __call__(
        self,
        x: tf.Tensor,
        event_ndims: int,
        width: int,
        context: tf.Tensor | None = None,
        num_params: int | None = None,
    ) -> tf.Tensor:
        """Computes the parameters for `x`.

        Args:
          x: `[..., *event]`, of `event_ndims` event dimensions.
          event_ndims: how many dimensions the network takes as one example.
          width: the size of the last dimension that the caller needs.
          context: `[..., k]`, with batch dimensions that broadcast against those of `x`; the
            network's second argument (its second input, if it is a Keras model), unless None.
          num_params: parameters for each entry of the event, for networks that return `[...,
            *event, num_params]`, as `tfb.AutoregressiveNetwork` does.

        Returns:
          `[..., *event[:-1], width]`, of the dtype of `x`.

        Raises:
          ValueError: if the network's output has another shape; if it takes a context and gets
            none, or the other way round.
          UntrackedVariableError: if it reads variables that it does not own.
        """
        batch_ndims = x.shape.rank - event_ndims
        event, sizes = x.shape[batch_ndims:], tf.shape(x)
        inputs = x
        if batch_ndims != 1:
            inputs = tf.reshape(x, tf.concat([[-1], sizes[batch_ndims:]], 0))
            inputs.set_shape([None, *event])
        if context is not None:
            context = _flat_context(context, x, sizes[:batch_ndims])
        expected = event[:-1] + [width]
        if inputs.shape[0] == 0:  # oneDNN's convolutions give an empty batch the wrong shape
            return tf.zeros([*x.shape[:-1], width], x.dtype)
        with self._guarded():
            out = self._net(*self._arguments(inputs, context))
        if num_params and tf.is_tensor(out) and out.shape.rank == 2 + event_ndims:
            out = _joined(out, [*event, num_params], expected)
        if not tf.is_tensor(out) or not out.shape[1:].is_compatible_with(expected):
            raise ValueError(
                f"Conditioner {self!r} must map {tuple(event)} to {tuple(expected)} for each "
                f"example; it returned {getattr(out, 'shape', type(out).__name__)}. "
                f"Give its last layer {width} units (filters)."
            )
        out = tf.cast(out, x.dtype)
        if batch_ndims != 1:
            out = tf.reshape(out, tf.concat([sizes[:-1], [width]], 0))
            out.set_shape(x.shape[:-1] + [width])
        return out

    def features(self, x: tf.Tensor) -> tf.Tensor:
        """The network's output as it is, of any shape."""
        with self._guarded():
            return self._net(*self._arguments(x, None))

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Within the block the network is called: variables are checked, and the mode is set."""
        # Every trace is checked, and the first eager call: the later ones read the same.
        checks = not (self._checked and tf.executing_eagerly())
        with (
            validate_tracked(self) if checks else contextlib.nullcontext(),
            private.keras_mode(current().in_training),
        ):
            yield
        self._checked = True

    def _arguments(self, x: tf.Tensor, context: tf.Tensor | None) -> tuple:
        """What the network is called with: Keras models take all their inputs as one list."""
        inputs = len(getattr(self._net, "inputs", None) or ())  # known of functional models only
        if inputs and inputs != 1 + (context is not None):
            wrong = "needs a context, and got none" if inputs > 1 else "takes no context"
            raise ValueError(
                f"Conditioner {self!r} has {inputs} input(s): it {wrong}. The networks of "
                "tfp_flows.conditioners take one if they are made with `context=`."
            )
        if context is None:
            return (x,)
        return ([x, context],) if inputs else (x, context)

    def __repr__(self) -> str:
        return repr(getattr(self._net, "name", self._net))


def _joined(out: tf.Tensor, entries: list, expected: tf.TensorShape) -> tf.Tensor:
    """`[n, d, num_params]` as `[n, num_params * d]`; another shape than `entries` is kept."""
    if not out.shape[1:].is_compatible_with(entries):
        return out
    return tf.reshape(tf.linalg.matrix_transpose(out), [-1, *expected])


def _flat_context(context: tf.Tensor, x: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """The context of every example of `x`, whose batch dimensions are flattened: `[n, width]`."""
    context = tf.convert_to_tensor(context)
    batch_ndims = batch.shape[0]
    if context.shape.rank == 0 or context.shape.rank - 1 > batch_ndims:
        raise ValueError(
            f"A context has shape [..., width], with batch dimensions that broadcast to those of "
            f"the examples: got {context.shape} for {batch_ndims} batch dimension(s)."
        )
    one_each = batch_ndims == 1 and context.shape.rank == 2
    if one_each and x.shape[0] is not None and context.shape[0] == x.shape[0]:
        return context
    shape = tf.concat([batch, tf.shape(context)[-1:]], 0)
    return tf.reshape(tf.broadcast_to(context, shape), [-1, context.shape[-1]])
