"""Fixed units: a location and a scale that are set once and never trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector
from tfp_flows.core.bijector import Context, InitState, Pair
from tfp_flows.core.numerics import moments
from tfp_flows.core.shapes import check_event_shape
from tfp_flows.core.variables import given_or_new


class Standardize(FlowBijector):
    r"""From standardised values to values in the units of what `initialize` saw.

    $$ y = x \odot s + m, \qquad x = (y - m) / s, \qquad \log|\det J| = \textstyle\sum \log s $$

    `m` and `s` are the mean and the standard deviation of each entry of the last axis. They are
    saved with the flow and not trained. The mean is subtracted first, so a large offset costs no
    digits. Before `initialize` the layer is the identity. An entry that is constant (up to
    rounding) gets `s = |m|`, or 1 if it is 0: the constant maps to 0, and any other value to its
    relative distance from the constant.

    `Flow` standardises contexts with one of these.

    Args:
      size: of the last axis.
      dtype: of the variables; they are cast to that of the input.
      location, scale: variables `[size]` for `m` and `s`, to use in place of new ones.
      initialized: a boolean variable, whether they are set, to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: on a call, if the last axis has another size.

    Example:
      >>> units = Standardize(2)
      >>> _ = units.initialize([[1001.0, 5.0], [1003.0, 5.0]])
      >>> units.inverse([[1001.0, 5.0], [1003.0, 6.0]]).numpy()
      array([[-1. ,  0. ],
             [ 1. ,  0.2]], dtype=float32)
    """

    def __init__(
        self,
        size: int,
        dtype: tf.DType = tf.float32,
        location: tf.Variable | None = None,
        scale: tf.Variable | None = None,
        initialized: tf.Variable | None = None,
        name: str = "standardize",
    ):
        zeros, ones = tf.zeros([size], dtype), tf.ones([size], dtype)
        self.location = given_or_new(location, zeros, "location", trainable=False)
        self.scale = given_or_new(scale, ones, "scale", trainable=False)
        self.initialized = given_or_new(initialized, False, "initialized", trainable=False)
        super().__init__(
            forward_min_event_ndims=1,
            is_constant_jacobian=True,
            parameters={
                "size": int(size),
                "dtype": dtype,
                "location": self.location,
                "scale": self.scale,
                "initialized": self.initialized,
                "name": name,
            },
            name=name,
        )

    def _init_states(self) -> list[InitState]:
        return [InitState(self.initialized, ())]

    def initialize(self, y: Any) -> tf.Tensor:
        """Sets location and scale from values `[..., size]`, unless that is done.

        Returns:
          The standardised values.

        Raises:
          ValueError: if the values are empty or not finite, or have another size.
        """
        return self._initialize(tf.convert_to_tensor(y), None)

    def _initialize(self, y: tf.Tensor, context: Context) -> tf.Tensor:
        self._check_argument(y, 1, "initialize")
        check_event_shape(self.name, self.location.shape, y)
        if tf.size(y) == 0:
            raise ValueError(f"{self.name} cannot be initialised from an empty batch.")
        if self.needs_initialization:
            location, scale = _location_and_scale(y.numpy().reshape(-1, self.location.shape[0]))
            if not (np.isfinite(location).all() and np.isfinite(scale).all()):
                raise ValueError(f"{self.name} cannot be initialised from NaN or infinity.")
            self.location.assign(location)
            self.scale.assign(scale)
            self.initialized.assign(True)
        return self._inverse_and_log_det(y, context)[0]

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        location, scale = self._constants(x)
        return x * scale + location, tf.reduce_sum(tf.math.log(scale))

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        location, scale = self._constants(y)
        return (y - location) / scale, -tf.reduce_sum(tf.math.log(scale))

    def _constants(self, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        check_event_shape(self.name, self.location.shape, value)
        return tf.cast(self.location, value.dtype), tf.cast(self.scale, value.dtype)

    def _describe(self) -> str:
        return str(self.location.shape[0])


def _location_and_scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of every column, in the dtype of `rows`."""
    limits = np.finfo(rows.dtype)
    first, above, deviation = (m.numpy() for m in moments(tf.constant(rows)))
    # One unit in the last place is at most eps times the value: less than two is rounding.
    constant = deviation <= 2.0 * limits.eps * np.abs(rows.astype(np.float64)).max(0)
    location = np.where(constant, first, first + above)
    size = np.where(location == 0.0, 1.0, np.abs(location))
    scale = np.where(constant, size, deviation)
    tiny = limits.tiny  # smaller numbers lose digits, and a processor may flush them to 0
    return location.astype(rows.dtype), np.maximum(scale, tiny).astype(rows.dtype)
