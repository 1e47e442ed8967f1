"""The context of a distribution: validated, standardised, encoded, and broadcast to the values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfp_flows.bijectors import Standardize
from tfp_flows.core import Network
from tfp_flows.distributions.density import assert_none
from tfp_flows.keras_engine import keras


class ContextSpec(tf.Module):
    """Which context a distribution takes, and what its conditioners get of it.

    Args:
      shape: shape of one example's context; None if the distribution takes none.
      dtype: dtype of contexts that are not labels, and of the features.
      owner: name for messages.
      encoder: network from contexts `[n, *shape]` to features `[n, width]`, or None. An Embedding
        of Keras makes the contexts labels.
      standardize: see `Flow`.
    """

    def __init__(
        self,
        shape: Sequence[int] | int | None,
        dtype: tf.DType,
        owner: str,
        encoder: Any = None,
        standardize: bool | Standardize | None = False,
    ):
        super().__init__(name="context")
        self.shape = None if shape is None else _validated_shape(shape, owner)
        self.encoder = None if encoder is None else Network(encoder, f"{owner}_context_encoder")
        self._classes = encoder.input_dim if isinstance(encoder, keras.layers.Embedding) else None
        self._feature_dtype = dtype
        self.dtype = tf.int32 if self._classes else dtype
        self._owner = owner
        self.standardizer = self._standardizer(standardize)

    def _standardizer(self, requested: bool | Standardize | None) -> Standardize | None:
        """The bijector that standardises contexts; None if nothing does."""
        if isinstance(requested, Standardize):
            return requested
        if requested not in (None, True, False):
            raise TypeError(
                "standardize_context must be True, False, None or an fb.Standardize, got "
                f"{requested!r}."
            )
        wanted = self.encoder is None if requested is None else requested
        if not wanted or self.shape is None or not self.dtype.is_floating:
            return None
        size = self.shape[-1] if self.shape else 1
        return Standardize(size, self.dtype, name="context_standardizer")

    def validated(self, context: Any) -> tf.Tensor | None:
        """Returns the context as a tensor of its dtype.

        Raises:
          ValueError: if it is missing, not wanted or of the wrong shape, or if it holds invalid
            labels (in graph mode: `tf.errors.InvalidArgumentError`; XLA skips that check).
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
            return self._validated_labels(context)
        return tf.cast(context, self.dtype)

    def _fits(self, found: tf.TensorShape) -> bool:
        if found.rank is None:
            return True  # checked where it is flattened
        ndims = len(self.shape)
        return found.rank >= ndims and found[found.rank - ndims :].is_compatible_with(self.shape)

    def _validated_labels(self, labels: tf.Tensor) -> tf.Tensor:
        message = f"{self._owner} takes whole-number labels in 0 ... {self._classes - 1}"
        if not labels.dtype.is_integer:
            raise ValueError(f"{message}, got {labels.dtype.name}.")
        invalid = (labels < 0) | (labels > self._classes - 1)
        with tf.control_dependencies(assert_none(invalid, f"{message}.")):
            return tf.cast(tf.identity(labels), self.dtype)

    def features(self, context: tf.Tensor | None) -> tf.Tensor | None:
        """What conditioners get, `[..., width]`, of a validated context `[..., *shape]`."""
        if context is None:
            return None
        if self.standardizer is not None:
            channels, _ = self.standardizer.inverse_and_log_det(self._channels(context))
            context = channels if self.shape else channels[..., 0]
        if self.encoder is None:
            features = tf.reshape(context, [-1, math.prod(self.shape)])
        else:
            features = self._encoded(context)
        batch = context.shape[: context.shape.rank - len(self.shape)]
        if batch.rank == 1:
            return features
        sizes = tf.concat([tf.shape(context)[: batch.rank], tf.shape(features)[-1:]], 0)
        out = tf.reshape(features, sizes)
        out.set_shape(batch + features.shape[-1:])
        return out

    def _encoded(self, context: tf.Tensor) -> tf.Tensor:
        """The encoder's output for the flattened batch, `[n, width]`."""
        if context.shape.rank != 1 + len(self.shape):
            context = tf.reshape(context, [-1, *self.shape])
        features = self.encoder.features(context)
        if not tf.is_tensor(features) or features.shape.rank != 2:
            found = getattr(features, "shape", type(features).__name__)
            raise ValueError(
                f"{self._owner}: the context_encoder must map [n, *{self.shape}] to vectors "
                f"[n, width]; it returned {found}. End it with a pooling or Flatten layer, or a "
                "recurrent layer that returns its last output."
            )
        return tf.cast(features, self._feature_dtype)

    def initialize(self, context: tf.Tensor | None) -> None:
        """Sets location and scale of the standardizer, if there is one, unless that is done."""
        if self.standardizer is not None:
            self.standardizer.initialize(self._channels(context))

    def _channels(self, context: tf.Tensor) -> tf.Tensor:
        """A context of shape `()` as a vector of one entry."""
        return context if self.shape else context[..., tf.newaxis]

    def broadcast(
        self, value: tf.Tensor, event_ndims: int, context: tf.Tensor, context_ndims: int = 1
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Broadcasts values and a context (or its features) to one batch shape.

        Args:
          value: `[..., *event]`.
          event_ndims: rank of the event.
          context: `[..., *shape]`, or features `[..., width]`.
          context_ndims: how many dimensions of `context` belong to one example.

        Raises:
          ValueError: if the batch shapes do not broadcast.
        """
        values = value.shape[: value.shape.rank - event_ndims]
        contexts = context.shape[: context.shape.rank - context_ndims]
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

    def sample_shape(self, sample_shape: Any, features: tf.Tensor) -> tf.Tensor:
        """The sample shape, broadcast against the batch shape of the features.

        Raises:
          ValueError: if they do not broadcast.
        """
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


def _validated_shape(shape: Sequence[int] | int, owner: str) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if None in sizes:
        raise ValueError(
            f"{owner}: context_shape must be of known sizes, got {sizes}. Pad what varies in "
            "length to the longest, and let the context_encoder skip the padding, as "
            "keras.layers.Masking does in front of a recurrent layer; or add a channel that is 1 "
            "where there are values and 0 where there are none."
        )
    sizes = tuple(int(n) for n in sizes)
    if min(sizes, default=1) < 1:
        raise ValueError(f"{owner}: context_shape must be of sizes 1 or more, got {shape}.")
    return sizes


def _spread(
    tensor: tf.Tensor, batch: tf.Tensor, static: tf.TensorShape, own: tf.TensorShape
) -> tf.Tensor:
    """Broadcasts the batch dimensions of `tensor`, from the shape `own` to `static`."""
    if own.is_fully_defined() and own == static:
        return tensor
    out = tf.broadcast_to(tensor, tf.concat([batch, tf.shape(tensor)[own.rank :]], 0))
    out.set_shape(static + tensor.shape[own.rank :])
    return out
