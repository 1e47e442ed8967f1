"""ActNorm: an affine layer whose initial values normalise the data it first sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.channel_affine import ChannelMap
from tfp_flows.core import FlowBijector
from tfp_flows.core.bijector import Context, InitState, Pair
from tfp_flows.core.numerics import moments
from tfp_flows.core.shapes import check_event_shape
from tfp_flows.core.variables import given_or_new


class ActNorm(FlowBijector):
    r"""Standardises every channel (or every element) of an event, then scales and shifts it.

    $$ y = m + \sigma \odot (x \odot e^{s} + b), \qquad
       \log|\det J| = \textstyle\sum (s + \log \sigma) $$

    `flows.initialize(flow, batch)`, or the first `fit`, sets `m` and `σ` to the mean and the
    standard deviation of the batch, so that the latents of that batch have mean 0 and variance 1;
    from then on they are constants. Nothing else initialises the layer. A channel that is constant
    in the batch keeps `σ = 1`. Before it is initialised, `m` is 0 and `σ` is 1.

    The trainable `s` and `b` start at 0 and are in units of the latent, so training does not
    depend on the unit or the offset of the data. The constants and the flag `initialized` are
    saved. A layer whose `s` or `b` is not 0, because it was trained or assigned, counts as
    initialised.

    Source: Glow, arXiv 1807.03039, section 3.1.

    Args:
      shape: an `int`, the size of the last axis (per channel, for events of any rank); or the
        event's shape (per element).
      dtype: of the variables; they are cast to that of the input.
      shift, log_scale: the trainable variables `b` and `s`, to use in place of new ones.
      initialized: the flag, a boolean variable to use in place of a new one.
      loc, scale: variables for the constants `m` and `σ`, to use in place of new ones. A copy of a
        trained layer needs all five variables.
      name: name of the bijector.

    Raises:
      ValueError: on a call, if the last dimensions of the input differ from `shape`.

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
        shape = tuple(int(n) for n in np.atleast_1d(shape))
        zeros, ones = tf.zeros(shape, dtype), tf.ones(shape, dtype)
        self.shift = given_or_new(shift, zeros, "shift")
        self.log_scale = given_or_new(log_scale, zeros, "log_scale")
        self.initialized = given_or_new(initialized, False, "initialized", trainable=False)
        self.loc = given_or_new(loc, zeros, "loc", trainable=False)
        self.scale = given_or_new(scale, ones, "scale", trainable=False)
        super().__init__(
            forward_min_event_ndims=len(shape),
            is_constant_jacobian=True,
            parameters={
                "shape": shape,
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

    def _init_states(self) -> list[InitState]:
        return [InitState(self.initialized, (self.shift, self.log_scale))]

    def initialize(self, y: Any) -> tf.Tensor:
        """Sets the constants from the batch `y`, unless that is done; returns its latents.

        Args:
          y: data, `[..., *shape]`.

        Raises:
          ValueError: if the batch is empty or not finite.
        """
        return self._initialize(tf.convert_to_tensor(y), None)

    def _initialize(self, y: tf.Tensor, context: Context) -> tf.Tensor:
        self._check_argument(y, self.forward_min_event_ndims, "initialize")
        check_event_shape(self.name, self.shift.shape, y)
        if y.shape.num_elements() == 0:
            raise ValueError(f"{self.name} cannot be initialised from an empty batch.")
        first, above, deviation = moments(tf.reshape(y, [-1, *self.loc.shape]))
        if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(deviation))):
            raise ValueError(
                f"{self.name} cannot be initialised: the batch that reaches it is not finite. "
                "Check the data, and the layers between the data and this one."
            )
        # Rounding may leave a constant channel a tiny deviation; dividing by it would explode.
        limits = np.finfo(y.dtype.as_numpy_dtype)
        eps, tiny = float(limits.eps), float(limits.tiny)
        least = eps * tf.abs(first + above) + tiny / eps**0.5
        scale = tf.where(deviation > least, deviation, 1.0)
        loc = tf.cast(first + above, self.loc.dtype)
        rest = (first - tf.cast(loc, tf.float64) + above) / scale  # the rounding error of `loc`
        done = self._init_states()[0].is_done()
        for variable, value in ((self.loc, loc), (self.scale, scale), (self.shift, rest)):
            variable.assign(tf.where(done, variable, tf.cast(value, variable.dtype)))
        self.initialized.assign(True)
        return self._inverse_and_log_det(y, context)[0]

    @property
    def is_channel_map(self) -> bool:
        """Whether a neighbouring 1x1 convolution may absorb this layer into its matrix."""
        return self.forward_min_event_ndims == 1

    def channel_map(self, value: tf.Tensor, forward: bool) -> ChannelMap:
        """The map of channels of the dtype of `value`, whose shape it checks."""
        loc, shift, log_scale, log_det = self._affine(value)
        if forward:
            return ChannelMap(None, tf.exp(log_scale), shift, loc, log_det)
        weight = tf.exp(-log_scale)
        return ChannelMap(loc, weight, -shift * weight, None, -log_det)

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        loc, shift, log_scale, log_det = self._affine(x)
        return x * tf.exp(log_scale) + shift + loc, log_det

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        loc, shift, log_scale, log_det = self._affine(y)
        return (y - loc - shift) * tf.exp(-log_scale), -log_det

    def _affine(self, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """`m`, `σ b`, `s + log σ` and its sum.

        `m` may be so large that it must meet the data before or after all else: `m + σ b` would
        lose the digits of `σ b`.
        """
        check_event_shape(self.name, self.shift.shape, value)
        loc, scale, shift, log_scale = (
            tf.cast(v, value.dtype) for v in (self.loc, self.scale, self.shift, self.log_scale)
        )
        log_scale = log_scale + tf.math.log(scale)
        return loc, scale * shift, log_scale, tf.reduce_sum(log_scale)

    def diagnostics(self, y: tf.Tensor, context: Context = None) -> dict[str, tf.Tensor]:
        return {"unit_log_det": -tf.reduce_mean(tf.math.log(self.scale))}

    def _is_increasing(self, **kwargs) -> bool:
        return True

    def _describe(self) -> str:
        return str(tuple(self.shift.shape))
