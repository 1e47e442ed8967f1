"""Shapes of events and batches: checked, kept, flattened and restored."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def check_event_shape(name: str, expected: Sequence[int | None], tensor: tf.Tensor) -> None:
    """Compares the last dimensions of a tensor with the event shape that a bijector was made for.

    Args:
      name: of the bijector, for the message.
      expected: the event shape.
      tensor: `[..., *event]`, of known rank.

    Raises:
      ValueError: if they differ.
    """
    expected = tf.TensorShape(expected)
    if not tensor.shape[tensor.shape.rank - expected.rank :].is_compatible_with(expected):
        raise ValueError(
            f"{name} was made for {tuple(expected)} in the last dimension(s), got a tensor of "
            f"shape {tensor.shape}."
        )


def like(tensor: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """`tensor` with the static shape of `other`, as variables of a loop need it."""
    if tensor.shape == other.shape:
        return tensor
    return tf.ensure_shape(tensor, other.shape)


def flat_batch(
    tensor: tf.Tensor, event: Sequence[int | None], owner: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives a tensor one batch dimension: `([n, *event], shape of its batch)`.

    Args:
      tensor: `[..., *event]`.
      event: its last dimensions, as far as they are known.
      owner: name for messages.

    Raises:
      tf.errors.InvalidArgumentError: the tensor has other last dimensions.
    """
    event = tf.TensorShape(event)
    shape, ndims = tf.shape(tensor), event.rank
    cut = tf.maximum(tf.size(shape) - ndims, 0)
    # Padded, so that a tensor with too few dimensions has a wrong size, and not none to compare.
    found = tf.concat([tf.fill([ndims], -1), shape[cut:]], 0)[-ndims:] if ndims else shape[:0]
    wanted = tf.constant([-1 if n is None else n for n in event.as_list()], tf.int32)
    fits = tf.reduce_all((found >= 0) & ((found == wanted) | (wanted == -1)))
    message = f"{owner} takes tensors with the last dimensions {event}, got shape"
    with tf.control_dependencies([tf.debugging.Assert(fits, [message, shape])]):
        flat = tf.reshape(tensor, tf.concat([[-1], found], 0))
    return tf.ensure_shape(flat, [None, *event]), shape[:cut]


def spread(tensor: tf.Tensor, batch: tf.Tensor, event: Sequence[int | None]) -> tf.Tensor:
    """Broadcasts `[..., *event]` to `[*batch, *event]`, and flattens that to `[n, *event]`."""
    sizes = tf.shape(tensor)[tf.rank(tensor) - len(event) :]
    full = tf.broadcast_to(tensor, tf.concat([batch, sizes], 0))
    return tf.ensure_shape(tf.reshape(full, tf.concat([[-1], sizes], 0)), [None, *event])


def restored(tensor: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """Gives `[n, ...]` its batch dimensions back: `[*batch, ...]`."""
    return tf.reshape(tensor, tf.concat([batch, tf.shape(tensor)[1:]], 0))
