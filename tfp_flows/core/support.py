"""Which data have a latent: found by evaluation, because TFP's bijectors do not say."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.bijector import FlowBijector
from tfp_flows.core.numerics import rounding_unit

tfb = tfp.bijectors

_FAR = 0.05  # a round trip that ends farther away, relative to the size, is not rounding


def is_formula(bijector: tfb.Bijector) -> bool:
    """Whether a bijector of TFP holds no network and none of ours, so that it is cheap."""
    plain = tfb.Bijector, tf.linalg.LinearOperator, tfp.util.DeferredTensor
    return not isinstance(bijector, FlowBijector) and all(
        isinstance(m, plain) and not isinstance(m, FlowBijector) for m in bijector.submodules
    )


def within(bijector: tfb.Bijector, y: tf.Tensor, event_ndims: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the data that have a latent.

    There is none if the inverse is not finite, as on and beyond the bounds of a sigmoid, or if
    `forward` maps it to other data. The second is checked for maps of single numbers, whose inverse
    may be finite on the wrong side of a bound, and where latents have fewer entries than data, as
    for vectors that must sum to one.

    Args:
      bijector: from latent to data, with `is_formula`.
      y: data, `[..., *event]`.
      event_ndims: rank of the event.

    Returns:
      `(safe, inside)`, of the shape of `y`: whether each entry is inside, and `y` where it is, else
      other data, which have a latent. NaN counts as inside, and so stays NaN.
    """
    given = tf.stop_gradient(y)
    is_nan = tf.math.is_nan(given)
    x = bijector.inverse(tf.identity(given))  # TFP's cache has not seen this tensor
    finite = tf.math.is_finite(x)
    x = tf.where(finite, x, tf.constant(0.5, x.dtype))  # a latent in almost every domain
    image = bijector.forward(tf.identity(x))

    if bijector.inverse_min_event_ndims == 0:
        inside = finite & _agree(image, given, _FAR * _size(bijector, given, x)) | is_nan
        return tf.where(inside, y, image), inside

    latent_ndims = bijector.inverse_event_ndims(event_ndims)
    entries, whole = finite, _all(finite, latent_ndims, event_ndims)
    if _is_surface(bijector, y.shape[y.shape.rank - event_ndims :]):
        largest = _largest(given, event_ndims, event_ndims) + _largest(x, latent_ndims, event_ndims)
        agree = _agree(image, given, math.sqrt(rounding_unit(y.dtype)) * largest)
        entries = whole = whole & _all(agree, event_ndims, event_ndims)
    elif latent_ndims != event_ndims or not x.shape.is_compatible_with(y.shape):
        entries = whole
    whole |= ~_all(~is_nan, event_ndims, event_ndims)
    entries = tf.broadcast_to(entries | is_nan, tf.shape(y)) | whole
    return tf.where(whole, y, image), entries


def inverse_within(
    bijector: tfb.Bijector, y: tf.Tensor, event_ndims: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`FlowBijector.inverse_within` for a bijector with `is_formula`: `(x, log_det, inside)`."""
    safe, inside = within(bijector, y, event_ndims)
    safe = tf.identity(safe)
    x, log_det = bijector.inverse(safe), bijector.inverse_log_det_jacobian(safe, event_ndims)
    return x, log_det, of_events(inside, y, event_ndims)


def of_events(inside: tf.Tensor, y: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """Whether all entries of an event are inside, or one is NaN, so that the event stays NaN."""
    axes = list(range(-event_ndims, 0))
    return tf.reduce_all(inside, axes) | tf.reduce_any(tf.math.is_nan(y), axes)


def both(inside: tf.Tensor | None, more: tf.Tensor | None) -> tf.Tensor | None:
    """Whether data are inside two bounds; None stands for no bound."""
    if inside is None or more is None:
        return more if inside is None else inside
    return inside & more


def _agree(image: tf.Tensor, y: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    # A number that overflows on the way back is not a difference.
    return (tf.abs(image - y) <= allowed) | ~tf.math.is_finite(image)


def _size(bijector: tfb.Bijector, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """The scale of rounding errors: the size of a number and, in its units, of its latent."""
    slope = tf.exp(-bijector.inverse_log_det_jacobian(tf.identity(y), event_ndims=0))
    slope = tf.where(tf.math.is_nan(slope), tf.zeros_like(slope), slope)
    return tf.abs(y) + slope * (1.0 + tf.abs(x))


def _is_surface(bijector: tfb.Bijector, event: tf.TensorShape) -> bool:
    """Whether latents have fewer entries than data, which then lie on a surface."""
    data, latent = event.num_elements(), bijector.inverse_event_shape(event).num_elements()
    return data is not None and latent is not None and latent < data


def _all(condition: tf.Tensor, ndims: int, event_ndims: int) -> tf.Tensor:
    """Whether it holds in a whole event of `ndims` dimensions; shape `[*batch, 1, ..., 1]`."""
    return _apart(tf.reduce_all(condition, axis=list(range(-ndims, 0))), event_ndims)


def _largest(values: tf.Tensor, ndims: int, event_ndims: int) -> tf.Tensor:
    return _apart(tf.reduce_max(tf.abs(values), axis=list(range(-ndims, 0))), event_ndims)


def _apart(batch: tf.Tensor, event_ndims: int) -> tf.Tensor:
    return batch[(..., *[tf.newaxis] * event_ndims)]
