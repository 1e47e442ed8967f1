"""Where a context comes in: checked, and brought to the batch shape of the values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


class ContextSpec:
    """The context that one distribution takes, or that it takes none.

    Args:
      shape: of one example's context; None if there is none.
      dtype: of contexts.
      classes: contexts are labels `0 ... classes - 1`, if given.
      owner: name for messages.
    """

    def __init__(
        self,
        shape: Sequence[int] | int | None,
        dtype: tf.DType,
        classes: int | None,
        owner: str,
    ):
        self.shape = None if shape is None else _checked_shape(shape, owner)
        self.dtype = tf.int32 if classes else dtype
        self._classes = classes
        self._owner = owner

    def checked(self, context) -> tf.Tensor | None:
        """Returns the context as a tensor of its dtype.

        Raises:
          ValueError: it is missing or not wanted, has the wrong shape, or holds what is no label
            (in graph mode: `tf.errors.InvalidArgumentError`; XLA leaves that check out).
        """
        if self.shape is None:
            if context is not None:
                raise ValueError(
                    f"{self._owner} was built without a context, and got one of shape "
                    f"{getattr(context, 'shape', type(context).__name__)}. Build it with "
                    "context_shape=..., or leave the context out."
                )
            return None
        if context is None:
            raise ValueError(
                f"{self._owner} needs a context of shape {self._expected()}: give context=..."
            )
        context = tf.convert_to_tensor(context)
        if not self._fits(context.shape):
            raise ValueError(
                f"{self._owner} takes contexts of shape {self._expected()}, got {context.shape}."
            )
        if self._classes:
            return self._checked_labels(context)
        return tf.cast(context, self.dtype)

    def _fits(self, found: tf.TensorShape) -> bool:
        if found.rank is None:
            return True  # checked where it is flattened
        ndims = len(self.shape)
        return found.rank >= ndims and found[found.rank - ndims :].is_compatible_with(self.shape)

    def _checked_labels(self, labels: tf.Tensor) -> tf.Tensor:
        message = f"{self._owner} takes whole-number labels in 0 ... {self._classes - 1}"
        if not labels.dtype.is_integer:
            raise ValueError(f"{message}, got {labels.dtype.name}.")
        wrong = tf.math.count_nonzero((labels < 0) | (labels > self._classes - 1))
        if tf.executing_eagerly():
            if wrong:
                raise ValueError(f"{message}; {int(wrong)} of {int(tf.size(labels))} are not.")
            return tf.cast(labels, self.dtype)
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(wrong, 0), [message])]):
            return tf.cast(tf.identity(labels), self.dtype)

    def batch_ndims(self, context: tf.Tensor) -> int:
        """How many batch dimensions a checked context has."""
        return context.shape.rank - len(self.shape)

    def merged(self, context: tf.Tensor) -> tf.Tensor:
        """The context with one batch dimension, `[n, *shape]`."""
        if self.batch_ndims(context) == 1:
            return context
        return tf.reshape(context, [-1, *self.shape])

    def vectors(self, context: tf.Tensor) -> tf.Tensor:
        """The context as a vector, `[..., width]`."""
        return unmerged(tf.reshape(context, [-1, math.prod(self.shape)]), context, len(self.shape))

    def broadcast(
        self, value: tf.Tensor, event_ndims: int, given: tf.Tensor, given_ndims: int = 1
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gives values and what belongs to a context one common batch shape.

        Args:
          value: `[..., *event]`.
          event_ndims: of `value`.
          given: a context, or its features.
          given_ndims: event dimensions of `given`.
        """
        values = value.shape[: value.shape.rank - event_ndims]
        contexts = given.shape[: given.shape.rank - given_ndims]
        if values.is_fully_defined() and values == contexts:
            return value, given
        try:
            static = tf.broadcast_static_shape(values, contexts)
        except ValueError:
            raise ValueError(
                f"{self._owner}: the batch shape of the context, {contexts}, does not broadcast "
                f"to that of the values, {values}."
            ) from None
        batch = tf.broadcast_dynamic_shape(
            tf.shape(value)[: values.rank], tf.shape(given)[: contexts.rank]
        )
        return _spread(value, batch, static, values), _spread(given, batch, static, contexts)

    def sample_shape(self, sample_shape, features: tf.Tensor) -> tf.Tensor:
        """The sample shape, with room for the features of every context."""
        shape = tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
        contexts = features.shape[:-1]
        static = tf.get_static_value(shape)
        if static is not None and contexts.is_fully_defined():
            try:
                return tf.constant(
                    tf.broadcast_static_shape(tf.TensorShape(static), contexts), tf.int32
                )
            except ValueError:
                raise ValueError(
                    f"{self._owner}: a context of batch shape {contexts} does not broadcast to the "
                    f"sample shape {tuple(map(int, static))}. For several samples of each context "
                    f"give the sample shape (n, {', '.join(map(str, contexts))}), or sample from "
                    "flow.condition(context)."
                ) from None
        return tf.broadcast_dynamic_shape(shape, tf.shape(features)[:-1])

    def _expected(self) -> str:
        return f"({', '.join(['...', *map(str, self.shape)])})"


def unmerged(features: tf.Tensor, context: tf.Tensor, context_ndims: int) -> tf.Tensor:
    """Features `[n, width]` of a context's flattened batch, with its batch dimensions again."""
    batch = context.shape[: context.shape.rank - context_ndims]
    if batch.rank == 1:
        return features
    sizes = tf.concat([tf.shape(context)[: batch.rank], tf.shape(features)[-1:]], 0)
    out = tf.reshape(features, sizes)
    out.set_shape(batch + features.shape[-1:])
    return out


def _checked_shape(shape: Sequence[int] | int, owner: str) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if None in sizes:
        raise ValueError(
            f"{owner}: context_shape must be of known sizes, got {sizes}. Pad what varies in "
            "length to the longest, and let the context_encoder skip the padding, as "
            "keras.layers.Masking does in front of a recurrent layer; or give it a channel more "
            "that is 1 where there are values and 0 where there are none."
        )
    sizes = tuple(int(n) for n in sizes)
    if min(sizes, default=1) < 1:
        raise ValueError(f"{owner}: context_shape must be of sizes 1 or more, got {shape}.")
    return sizes


def _spread(tensor, batch, static, own) -> tf.Tensor:
    """Broadcasts batch dimensions, from `own` to `static`."""
    if own.is_fully_defined() and own == static:
        return tensor
    event = tensor.shape[own.rank :]
    out = tf.broadcast_to(tensor, tf.concat([batch, tf.shape(tensor)[own.rank :]], 0))
    out.set_shape(static + event)
    return out
