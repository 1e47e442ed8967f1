"""Fixed units: a location and a scale that are set once and never trained."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector
from tfp_flows.core.init_state import InitState
from tfp_flows.core.numerics import moments


class Standardize(FlowBijector):
    r"""From standardised values to values in the units of what `initialize` saw.

    $$ y = x \odot s + m, \qquad x = (y - m) / s, \qquad \log|\det J| = \textstyle\sum \log s $$

    `m` and `s` are the mean and the standard deviation of each entry of the last axis. They are
    saved with the flow and not trained. The mean is subtracted first, so that a large offset costs
    no digits. Before `initialize` the layer is the identity. An entry that is constant (up to
    rounding) gets `s = |m|`, or 1 if it is 0: the constant itself maps to 0, and a later value
    that differs maps to its relative distance from the constant.

    `Flow` standardises contexts with one of these.

    Args:
      size: of the last axis.
      dtype: of the variables; they are cast to that of the input.
      location, scale, initialized: variables to use in place of new ones.
      name: name of the bijector.

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
        if location is None:
            location = _constant(tf.zeros([size], dtype), "location")
        if scale is None:
            scale = _constant(tf.ones([size], dtype), "scale")
        if initialized is None:
            initialized = _constant(False, "initialized")
        self.location, self.scale, self.initialized = location, scale, initialized
        super().__init__(
            forward_min_event_ndims=1,
            is_constant_jacobian=True,
            parameters={
                "size": int(size),
                "dtype": dtype,
                "location": location,
                "scale": scale,
                "initialized": initialized,
                "name": name,
            },
            name=name,
        )

    def _init_states(self):
        return [InitState(self.initialized, ())]

    def initialize(self, y) -> tf.Tensor:
        """Sets location and scale from values `[..., size]`, unless that is done.

        Returns:
          The standardised values.

        Raises:
          ValueError: the values are empty or not finite, or have another size.
        """
        return self._initialize(tf.convert_to_tensor(y), None)

    def _initialize(self, y, context):
        self._check_argument(y, 1, "initialize")
        self._check_size(y)
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

    def _forward_and_log_det(self, x, context):
        location, scale = self._constants(x)
        return x * scale + location, tf.reduce_sum(tf.math.log(scale))

    def _inverse_and_log_det(self, y, context):
        location, scale = self._constants(y)
        return (y - location) / scale, -tf.reduce_sum(tf.math.log(scale))

    def _constants(self, value) -> tuple[tf.Tensor, tf.Tensor]:
        self._check_size(value)
        return tf.cast(self.location, value.dtype), tf.cast(self.scale, value.dtype)

    def _check_size(self, value) -> None:
        if not value.shape[-1:].is_compatible_with(self.location.shape):
            raise ValueError(
                f"{self.name} was made for {self.location.shape[0]} in the last dimension, got a "
                f"tensor of shape {value.shape}."
            )

    def _describe(self):
        return str(self.location.shape[0])


def _constant(value, name: str) -> tf.Variable:
    return tf.Variable(value, trainable=False, name=name)


def _location_and_scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of every column, in the dtype of `rows`."""
    exact = rows.astype(np.float64)
    first, above, spread = (m.numpy() for m in moments(tf.constant(rows)))
    # One unit in the last place is no more than eps times the value: less than two is rounding.
    constant = spread <= 2.0 * np.finfo(rows.dtype).eps * np.abs(exact).max(0)
    location = np.where(constant, first, first + above)
    size = np.where(location == 0.0, 1.0, np.abs(location))
    scale = np.where(constant, size, spread)
    tiny = np.finfo(rows.dtype).tiny  # below it numbers lose digits, and a processor may drop them
    return location.astype(rows.dtype), np.maximum(scale, tiny).astype(rows.dtype)
