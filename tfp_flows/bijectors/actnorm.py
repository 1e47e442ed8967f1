"""ActNorm: an affine layer that starts by normalising the data it first sees, when told to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.channel_affine import ChannelMap
from tfp_flows.core import FlowBijector


class ActNorm(FlowBijector):
    r"""Scales and shifts every channel (or every element) of an event.

    $$ y = x \odot e^{s} + b, \qquad \log|\det J| = \textstyle\sum s $$

    It is the identity until `flows.initialize(flow, batch)` (or the first `fit`) sets `b` and
    `e^s` to the mean and the standard deviation of the batch, so that the latents of that batch
    have mean 0 and variance 1. Nothing else ever initialises it, and the flag is a variable
    that is saved with the rest. A channel that is constant in the batch keeps scale 1.

    Source: Glow, arXiv 1807.03039, section 3.1.

    Args:
      shape: an `int`, the size of the last axis (per channel, for events of any rank); or the
        event's shape (per element).
      dtype: of the variables; they are cast to that of the input.
      shift, log_scale, initialized: variables to use in place of new ones.
      name: name of the bijector.

    Example:
      >>> norm = ActNorm(2)
      >>> _ = norm.initialize(tf.constant([[0.0, 5.0], [4.0, 5.0]]))
      >>> norm.inverse([[0.0, 5.0], [4.0, 6.0]]).numpy()
      array([[-1.,  0.],
             [ 1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        dtype: tf.DType = tf.float32,
        shift: tf.Variable | None = None,
        log_scale: tf.Variable | None = None,
        initialized: tf.Variable | None = None,
        name: str = "actnorm",
    ):
        shape = [int(n) for n in np.atleast_1d(shape)]
        self.shift = tf.Variable(tf.zeros(shape, dtype), name="shift") if shift is None else shift
        self.log_scale = (
            tf.Variable(tf.zeros(shape, dtype), name="log_scale")
            if log_scale is None
            else log_scale
        )
        self.initialized = (
            tf.Variable(False, trainable=False, name="initialized")
            if initialized is None
            else initialized
        )
        super().__init__(
            forward_min_event_ndims=len(shape),
            is_constant_jacobian=True,
            parameters={
                "shape": tuple(shape),
                "dtype": dtype,
                "shift": self.shift,
                "log_scale": self.log_scale,
                "initialized": self.initialized,
                "name": name,
            },
            name=name,
        )

    @property
    def needs_initialization(self) -> bool:
        return not bool(self.initialized.numpy())

    def initialize(self, y) -> tf.Tensor:
        """Sets shift and scale from the batch `y`, unless that is done; returns its latents.

        Raises:
          ValueError: the batch is empty or not finite.
        """
        return self._initialize(tf.convert_to_tensor(y), None)

    def _initialize(self, y, context):
        self._check_argument(y, self.forward_min_event_ndims, "initialize")
        self._check_shape(y)
        if y.shape.num_elements() == 0:
            raise ValueError(f"{self.name} cannot be initialised from an empty batch.")
        axes = list(range(y.shape.rank - self.forward_min_event_ndims))
        mean, variance = tf.nn.moments(tf.cast(y, tf.float64), axes)
        if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(variance))):
            raise ValueError(
                f"{self.name} cannot be initialised: the batch that reaches it is not finite. "
                "Check the data, and the layers between the data and this one."
            )
        # Rounding leaves a constant channel a tiny variance; dividing by it would explode.
        rounding = np.finfo(y.dtype.as_numpy_dtype)
        spread = variance > tf.square(8.0 * rounding.eps * mean) + float(rounding.tiny)
        log_scale = tf.where(spread, 0.5 * tf.math.log(tf.where(spread, variance, 1.0)), 0.0)
        self._assign_unless_done(self.shift, mean)
        self._assign_unless_done(self.log_scale, log_scale)
        self.initialized.assign(True)
        return self._inverse_and_log_det(y, context)[0]

    def _assign_unless_done(self, variable: tf.Variable, value: tf.Tensor) -> None:
        variable.assign(tf.where(self.initialized, variable, tf.cast(value, variable.dtype)))

    @property
    def is_channel_map(self) -> bool:
        """Whether a neighbouring 1x1 convolution may take this layer into its matrix."""
        return self.forward_min_event_ndims == 1

    def channel_map(self, value: tf.Tensor, forward: bool) -> ChannelMap:
        """What it does to channels of the dtype of `value`, whose shape it checks."""
        self._check_shape(value)
        shift = tf.cast(self.shift, value.dtype)
        log_scale = tf.cast(self.log_scale, value.dtype)
        if forward:
            return ChannelMap(None, tf.exp(log_scale), shift, tf.reduce_sum(log_scale))
        return ChannelMap(shift, tf.exp(-log_scale), None, -tf.reduce_sum(log_scale))

    def _forward_and_log_det(self, x, context):
        apply = self.channel_map(x, forward=True)
        return x * apply.weight + apply.after, apply.log_det

    def _inverse_and_log_det(self, y, context):
        apply = self.channel_map(y, forward=False)
        return (y - apply.before) * apply.weight, apply.log_det

    def _check_shape(self, value):
        event = value.shape[value.shape.rank - self.forward_min_event_ndims :]
        if not event.is_compatible_with(self.shift.shape):
            raise ValueError(
                f"{self.name} was made for {tuple(self.shift.shape)} in the last dimension(s), "
                f"got a tensor of shape {value.shape}."
            )

    def _is_increasing(self, **kwargs):
        return True

    def _describe(self):
        return str(tuple(self.shift.shape))
