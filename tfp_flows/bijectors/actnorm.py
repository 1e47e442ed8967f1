"""ActNorm: an affine layer that starts by normalising the data it first sees, when told to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.channel_affine import ChannelMap
from tfp_flows.core import FlowBijector
from tfp_flows.core.init_state import InitState
from tfp_flows.core.numerics import moments


class ActNorm(FlowBijector):
    r"""Standardises every channel (or every element) of an event, then scales and shifts it.

    $$ y = m + \sigma \odot (x \odot e^{s} + b), \qquad
       \log|\det J| = \textstyle\sum (s + \log \sigma) $$

    `flows.initialize(flow, batch)`, or the first `fit`, sets `m` and `σ` to the mean and the
    standard deviation of the batch, so that the latents of that batch have mean 0 and variance 1.
    They are constants from then on. The trainable `s` and `b` start at 0 and are in units of the
    latent, so that training does not depend on the unit or the offset of the data. Before it is
    initialised, `m` is 0 and `σ` is 1. A channel that is constant in the batch keeps `σ = 1`.

    Nothing else initialises it. Its state is saved: the flag `initialized`, and the constants.
    A layer whose `s` or `b` has left 0, because it was trained or assigned, counts as initialised.

    Source: Glow, arXiv 1807.03039, section 3.1.

    Args:
      shape: an `int`, the size of the last axis (per channel, for events of any rank); or the
        event's shape (per element).
      dtype: of the variables; they are cast to that of the input.
      shift, log_scale: the trainable variables `b` and `s`, to use in place of new ones.
      initialized: the flag, a boolean variable to use in place of a new one.
      loc, scale: variables for the constants `m` and `σ`, to use in place of new ones. To copy a
        trained layer, copy all five variables.
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
        loc: tf.Variable | None = None,
        scale: tf.Variable | None = None,
        name: str = "actnorm",
    ):
        shape = [int(n) for n in np.atleast_1d(shape)]
        zeros, ones = tf.zeros(shape, dtype), tf.ones(shape, dtype)
        self.shift = _variable(shift, zeros, "shift", trainable=True)
        self.log_scale = _variable(log_scale, zeros, "log_scale", trainable=True)
        self.initialized = _variable(initialized, False, "initialized", trainable=False)
        self.loc = _variable(loc, zeros, "loc", trainable=False)
        self.scale = _variable(scale, ones, "scale", trainable=False)
        super().__init__(
            forward_min_event_ndims=len(shape),
            is_constant_jacobian=True,
            parameters={
                "shape": tuple(shape),
                "dtype": dtype,
                "shift": self.shift,
                "log_scale": self.log_scale,
                "initialized": self.initialized,
                "loc": self.loc,
                "scale": self.scale,
                "name": name,
            },
            name=name,
        )

    def _init_states(self):
        return [InitState(self.initialized, (self.shift, self.log_scale))]

    def initialize(self, y) -> tf.Tensor:
        """Sets the constants from the batch `y`, unless that is done; returns its latents.

        Raises:
          ValueError: the batch is empty or not finite.
        """
        return self._initialize(tf.convert_to_tensor(y), None)

    def _initialize(self, y, context):
        self._check_argument(y, self.forward_min_event_ndims, "initialize")
        self._check_shape(y)
        if y.shape.num_elements() == 0:
            raise ValueError(f"{self.name} cannot be initialised from an empty batch.")
        first, above, deviation = moments(tf.reshape(y, [-1, *self.loc.shape]))
        if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(deviation))):
            raise ValueError(
                f"{self.name} cannot be initialised: the batch that reaches it is not finite. "
                "Check the data, and the layers between the data and this one."
            )
        # Rounding may leave a constant channel a tiny spread; dividing by it would explode.
        limits = np.finfo(y.dtype.as_numpy_dtype)
        eps, tiny = float(limits.eps), float(limits.tiny)
        least = eps * tf.abs(first + above) + tiny / eps**0.5
        scale = tf.where(deviation > least, deviation, 1.0)
        loc = tf.cast(first + above, self.loc.dtype)
        rest = (first - tf.cast(loc, tf.float64) + above) / scale  # what rounding took from `loc`
        done = self._init_states()[0].is_done()
        for variable, value in ((self.loc, loc), (self.scale, scale), (self.shift, rest)):
            variable.assign(tf.where(done, variable, tf.cast(value, variable.dtype)))
        self.initialized.assign(True)
        return self._inverse_and_log_det(y, context)[0]

    @property
    def is_channel_map(self) -> bool:
        """Whether a neighbouring 1x1 convolution may take this layer into its matrix."""
        return self.forward_min_event_ndims == 1

    def channel_map(self, value: tf.Tensor, forward: bool) -> ChannelMap:
        """What it does to channels of the dtype of `value`, whose shape it checks."""
        self._check_shape(value)
        loc, scale, shift, log_scale = (
            tf.cast(v, value.dtype) for v in (self.loc, self.scale, self.shift, self.log_scale)
        )
        log_det = tf.reduce_sum(log_scale + tf.math.log(scale))
        if forward:
            return ChannelMap(None, tf.exp(log_scale) * scale, shift * scale, loc, log_det)
        shrink = tf.exp(-log_scale)
        return ChannelMap(loc, shrink / scale, -shift * shrink, None, -log_det)

    def _forward_and_log_det(self, x, context):
        apply = self.channel_map(x, forward=True)
        return x * apply.weight + apply.shift + apply.after, apply.log_det

    def _inverse_and_log_det(self, y, context):
        apply = self.channel_map(y, forward=False)
        return (y - apply.before) * apply.weight + apply.shift, apply.log_det

    def diagnostics(self, y, context=None):
        return {"unit_log_det": -tf.reduce_mean(tf.math.log(self.scale))}

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


def _variable(given: tf.Variable | None, start, name: str, trainable: bool) -> tf.Variable:
    return tf.Variable(start, trainable=trainable, name=name) if given is None else given
