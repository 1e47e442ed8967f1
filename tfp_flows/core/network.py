"""What a bijector calls to get its parameters: one adapter for every kind of network."""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf
import tf_keras

from tfp_flows.core.variables import LiveVariables, is_keras_layer, refuse_untracked


class Network(tf.Module):
    """A conditioner: a Keras 3 or tf_keras layer, a `tf.Module` or a plain function.

    It keeps the network's variables in sight of `tf.Module`, lets any number of batch
    dimensions through networks that know only one, and refuses variables nobody tracks.

    Args:
      net: called as `net(x)`, or as `net(x, context)` where a context is given.
      name: a name for messages.
    """

    def __init__(self, net: Any, name: str = "network"):
        if not callable(net) or isinstance(net, type):
            raise TypeError(
                f"A conditioner must be callable: a Keras layer, a tf.Module with __call__, or "
                f"a function. Got {net if isinstance(net, type) else type(net).__name__}."
            )
        super().__init__(name=name)
        self._keras_variables = LiveVariables(net) if is_keras_layer(net) else ()
        self._net = net
        self._checked = False

    @property
    def net(self) -> Any:
        """The network itself, as it was given."""
        return self._net

    @property
    def draws_anew(self) -> bool:
        """Whether a second evaluation cannot repeat the random numbers of the first.

        So it is with tf_keras's dropout, whose generators keep their state out of sight.
        """
        if not isinstance(self._net, tf_keras.layers.Layer):
            return False
        layers = [self._net, *self._net._flatten_layers()]
        return any(hasattr(layer, "_random_generator") for layer in layers)

    def __call__(self, x: tf.Tensor, event_ndims: int, width: int, context=None) -> tf.Tensor:
        """Returns the parameters for `x`: its shape, with `width` as the last dimension.

        Args:
          x: `[..., *event]`, of `event_ndims` event dimensions.
          event_ndims: how many dimensions the network takes as one example.
          width: the size of the last dimension that the caller needs.
          context: given to the network as second argument, unless None.

        Raises:
          ValueError: the network's output has another shape.
          UntrackedVariableError: it reads variables that it does not own.
        """
        batch_ndims = x.shape.rank - event_ndims
        event, sizes = x.shape[batch_ndims:], tf.shape(x)
        inputs = x
        if batch_ndims != 1:
            inputs = tf.reshape(x, tf.concat([[-1], sizes[batch_ndims:]], 0))
            inputs.set_shape([None, *event])
            if context is not None:  # [..., width], with batch dimensions that may broadcast
                shape = tf.concat([sizes[:batch_ndims], tf.shape(context)[-1:]], 0)
                context = tf.reshape(tf.broadcast_to(context, shape), [-1, context.shape[-1]])
        expected = event[:-1] + [width]
        if inputs.shape[0] == 0:  # oneDNN's convolutions give an empty batch the wrong shape
            return tf.zeros([*x.shape[:-1], width], x.dtype)
        out = self._call_net(inputs, context)
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

    def _call_net(self, x: tf.Tensor, context) -> tf.Tensor:
        # Every trace is guarded, and the first eager call: the later ones read the same.
        guard = not (self._checked and tf.executing_eagerly())
        with refuse_untracked(self) if guard else contextlib.nullcontext():
            out = self._net(x) if context is None else self._net(x, context)
        self._checked = True
        return out

    def __repr__(self) -> str:
        return repr(getattr(self._net, "name", self._net))
