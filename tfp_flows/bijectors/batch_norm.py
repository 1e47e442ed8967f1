"""Batch normalisation as an invertible layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.evaluation import current
from tfp_flows.core.shapes import check_event_shape
from tfp_flows.core.variables import given_or_new


class BatchNorm(FlowBijector):
    r"""Normalises data on their way to the latent, in training by the statistics of the batch.

    $$ x = \frac{y - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
       \log|\det J| = \tfrac12 \textstyle\sum \log(\sigma^2 + \epsilon) $$

    While a Keras model is trained (`fit`), `inverse` uses mean and variance of the batch, with
    gradients through them, and updates running averages; otherwise it uses those averages, as
    `forward`, which samples, always does. The averages are arithmetic over the first
    `1 / (1 - momentum)` batches, and exponential after that. Before the first batch the layer is
    the identity, up to `epsilon`. A batch of one example, which has no variance, is normalised by
    the averages.

    Why not `tfb.BatchNormalization`: it wraps a layer of tf_keras, whose mode is set at
    construction and whose updates a Keras 3 model does not see, and it cannot be saved in a
    `.keras` file. `Repeat` and `Chain(reversible=True)` reject this layer in training: the
    statistics of a batch cannot be recomputed from latents.

    Source: Density estimation using Real NVP, arXiv 1605.08803, section 3.7.

    Args:
      shape: an `int`, the size of the last axis (per channel, for events of any rank); or the
        event's shape (per element).
      momentum: weight of the past in the running averages.
      epsilon: added to variances, so its unit is the square of the data's: for data of a small
        unit, put an `ActNorm` between them and this layer.
      dtype: of the variables; they are cast to that of the input.
      mean, variance: variables for the running averages, to use in place of new ones.
      batches: variable for the number of batches in them, to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: if `momentum` is not in [0, 1), or `epsilon` not above 0; on a call, if the last
        dimensions of the input differ from `shape`.

    Example:
      >>> norm = BatchNorm(2)
      >>> _ = norm.mean.assign([1.0, 2.0])
      >>> norm.inverse([[1.0, 3.0]]).numpy().round(3)
      array([[0., 1.]], dtype=float32)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        momentum: float = 0.99,
        epsilon: float = 1e-4,
        dtype: tf.DType = tf.float32,
        mean: tf.Variable | None = None,
        variance: tf.Variable | None = None,
        batches: tf.Variable | None = None,
        name: str = "batch_norm",
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}.")
        shape = tuple(int(n) for n in np.atleast_1d(shape))
        # One value on all replicas: the mean of theirs.
        average = {"trainable": False, "aggregation": tf.VariableAggregation.MEAN}
        self.mean = given_or_new(mean, tf.zeros(shape, dtype), "mean", **average)
        self.variance = given_or_new(variance, tf.ones(shape, dtype), "variance", **average)
        self.batches = given_or_new(batches, tf.zeros([], dtype), "batches", **average)
        self._momentum, self._epsilon = float(momentum), float(epsilon)
        super().__init__(
            forward_min_event_ndims=len(shape),
            is_constant_jacobian=True,
            parameters={
                "shape": shape,
                "momentum": self._momentum,
                "epsilon": self._epsilon,
                "dtype": dtype,
                "mean": self.mean,
                "variance": self.variance,
                "batches": self.batches,
                "name": name,
            },
            name=name,
        )

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        mean, scale = self._running(x)
        return x * scale + mean, tf.reduce_sum(tf.math.log(scale))

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        if current().in_training:
            return self._update_and_normalize(y)
        return _normalized(y, *self._running(y))

    def _initialize(self, y: tf.Tensor, context: Context) -> tf.Tensor:
        # Layers after this one are initialised on what they will see in training.
        return self._update_and_normalize(y)[0]

    def _recompute(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            f"{self.name} cannot be trained by inversion: the statistics of a batch cannot be "
            "recomputed from its latents. Use reversible=False, or ActNorm."
        )

    def _update_and_normalize(self, y: tf.Tensor) -> Pair:
        """Normalises by the statistics of the batch, and adds them to the averages."""
        running = self._running(y)
        axes = list(range(y.shape.rank - self.forward_min_event_ndims))
        mean, variance = tf.nn.moments(y, axes)
        has_variance = tf.reduce_prod(tf.shape(y)[: len(axes)]) > 1
        weight = tf.cast(has_variance, self.batches.dtype)
        count = self.batches + weight
        share = weight * tf.maximum(1 / tf.maximum(count, 1), 1 - self._momentum)
        for average, new in ((self.mean, mean), (self.variance, variance)):
            change = tf.cast(tf.stop_gradient(new), average.dtype) - average
            average.assign_add(share * change)
        self.batches.assign(count)
        batch = mean, tf.sqrt(variance + self._epsilon)
        pairs = zip(batch, running, strict=True)
        return _normalized(y, *(tf.where(has_variance, new, old) for new, old in pairs))

    def _running(self, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The average mean, and the scale that belongs to the average variance."""
        check_event_shape(self.name, self.mean.shape, value)
        mean, variance = (tf.cast(v, value.dtype) for v in (self.mean, self.variance))
        return mean, tf.sqrt(variance + self._epsilon)

    def _describe(self) -> str:
        return str(tuple(self.mean.shape))


def _normalized(y: tf.Tensor, mean: tf.Tensor, scale: tf.Tensor) -> Pair:
    return (y - mean) / scale, -tf.reduce_sum(tf.math.log(scale))
