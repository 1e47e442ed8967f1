"""From bounded data to unbounded latents."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import FlowBijector
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.support import of_events

tfb = tfp.bijectors


class Logit(FlowBijector):
    r"""Maps bounded data to unbounded latents: preprocessing for pixels.

    $$ \text{data to latent:} \quad
       x = \operatorname{logit}\Big(\alpha + (1 - 2 \alpha) \frac{y - low}{high - low}\Big) $$

    Data on the bounds have finite latents, since `alpha` is above 0. Samples may be outside the
    bounds, by at most `alpha / (1 - 2 alpha)` of the distance between them. Data further out have
    no latent: `inverse` raises an error, and the log-density of a `Flow` is minus infinity. As the
    last step of an image flow, `flows.glow(..., data_bijector=fb.Logit(low=-0.5, high=0.5))` fits
    the pixels of `Dequantized`, which are in [-1/2, 1/2].

    Source: Density estimation using Real NVP, arXiv 1605.08803, section 4.1.

    Args:
      alpha: between 0 and 1/2.
      low, high: bounds of the data, finite numbers.
      name: name of the bijector.

    Raises:
      ValueError: if `alpha` is not between 0 and 1/2, or `low` not below `high`; from `inverse` in
        eager mode, if data have no latent.
      tf.errors.InvalidArgumentError: from `inverse` in graph mode, if data have no latent. (XLA
        has no errors.)

    Example:
      >>> Logit(alpha=0.25).inverse([0.0, 0.5, 1.0]).numpy().round(3)
      array([-1.099,  0.   ,  1.099], dtype=float32)
    """

    def __init__(
        self,
        alpha: float = 0.05,
        low: float = 0.0,
        high: float = 1.0,
        name: str = "logit",
    ):
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must be between 0 and 1/2, got {alpha}. RealNVP uses 0.05.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"low must be below high, and both finite: got {low} and {high}.")
        margin = alpha / (1 - 2 * alpha) * (high - low)
        self._range = (low - margin, high + margin)
        super().__init__(
            forward_min_event_ndims=0,
            parameters={"alpha": alpha, "low": low, "high": high, "name": name},
            name=name,
        )

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        sigmoid = self._sigmoid(x.dtype)
        x = tf.identity(x)  # a tensor that TFP's cache has not seen is never stale
        return sigmoid.forward(x), sigmoid.forward_log_det_jacobian(x)

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        sigmoid = self._sigmoid(y.dtype)
        with tf.control_dependencies(self._check_range(y, sigmoid.low, sigmoid.high)):
            x = sigmoid.inverse(tf.identity(y))
        return x, -sigmoid.forward_log_det_jacobian(x)

    def within(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`(safe, inside)`: which entries have a latent; entries of `safe` all do, or are NaN."""
        sigmoid = self._sigmoid(y.dtype)
        inside = ((y > sigmoid.low) & (y < sigmoid.high)) | tf.math.is_nan(y)
        return tf.where(inside, y, (sigmoid.low + sigmoid.high) / 2), inside

    def inverse_within(
        self, y: Any, event_ndims: int, context: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        y = tf.convert_to_tensor(y)
        safe, inside = self.within(y)
        x, log_det = self.inverse_and_log_det(safe, event_ndims, context)
        return x, log_det, of_events(inside, y, event_ndims)

    def _is_increasing(self, context: Context = None) -> bool:
        return True

    def _sigmoid(self, dtype: tf.DType) -> tfb.Sigmoid:
        return tfb.Sigmoid(*(tf.constant(bound, dtype) for bound in self._range))

    def _check_range(self, y: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> list:
        """Raises in eager mode if data have no latent; in a graph returns assertions to run."""
        outside = tf.math.count_nonzero((y < low) | (y > high))
        message = f"{self.name} takes data within {self._range}, its bounds and a margin from alpha"
        if not tf.executing_eagerly():
            return [tf.debugging.Assert(tf.equal(outside, 0), [message, outside])]
        if outside:
            raise ValueError(f"{message}; {int(outside)} of {int(tf.size(y))} number(s) are not.")
        return []

    def _describe(self) -> str:
        p = self.parameters
        return f"alpha {p['alpha']:g}, {p['low']:g} to {p['high']:g}"
