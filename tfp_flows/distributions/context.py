"""Where a context comes in: checked, and brought to the batch shape of the values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf


class ContextPort:
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
        if isinstance(shape, int):
            shape = (shape,)
        self.shape = None if shape is None else tuple(int(n) for n in shape)
        self.dtype = tf.int32 if classes else dtype
        self._classes = classes
        self._owner = owner
        if self.shape is not None and min(self.shape, default=1) < 1:
            raise ValueError(f"{owner}: context_shape must be of sizes 1 or more, got {shape}.")

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

    def broadcast(
        self, value: tf.Tensor, event_ndims: int, context: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gives values and contexts one common batch shape."""
        values, contexts = value.shape[: value.shape.rank - event_ndims], self._batch(context)
        if values.is_fully_defined() and values == contexts:
            return value, context
        try:
            static = tf.broadcast_static_shape(values, contexts)
        except ValueError:
            raise ValueError(
                f"{self._owner}: the batch shape of the context, {contexts}, does not broadcast "
                f"to that of the values, {values}."
            ) from None
        batch = tf.broadcast_dynamic_shape(
            tf.shape(value)[: values.rank], tf.shape(context)[: contexts.rank]
        )
        return _spread(value, batch, static, values), _spread(context, batch, static, contexts)

    def sample_shape(self, sample_shape, context: tf.Tensor) -> tf.Tensor:
        """The sample shape, with room for every context."""
        shape = tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
        contexts = self._batch(context)
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
        return tf.broadcast_dynamic_shape(shape, tf.shape(context)[: contexts.rank])

    def flat(self, context: tf.Tensor) -> tf.Tensor:
        """The context as a vector, `[..., width]`."""
        size = math.prod(self.shape)
        out = tf.reshape(
            context, tf.concat([tf.shape(context)[: len(self._batch(context))], [size]], 0)
        )
        out.set_shape([*self._batch(context), size])
        return out

    def _batch(self, context: tf.Tensor) -> tf.TensorShape:
        return context.shape[: context.shape.rank - len(self.shape)]

    def _expected(self) -> str:
        return f"({', '.join(['...', *map(str, self.shape)])})"


def _spread(tensor, batch, static, own) -> tf.Tensor:
    """Broadcasts batch dimensions, from `own` to `static`."""
    if own.is_fully_defined() and own == static:
        return tensor
    event = tensor.shape[own.rank :]
    out = tf.broadcast_to(tensor, tf.concat([batch, tf.shape(tensor)[own.rank :]], 0))
    out.set_shape(static + event)
    return out
