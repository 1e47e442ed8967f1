"""Batch normalisation as an invertible layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector
from tfp_flows.core.evaluation import current


class BatchNorm(FlowBijector):
    r"""Normalises data on their way to the latent, by the statistics of the batch in training.

    $$ x = \frac{y - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
       \log|\det J| = \tfrac12 \textstyle\sum \log(\sigma^2 + \epsilon) $$

    While a Keras model is trained (`fit`), `inverse` takes mean and variance of the batch, passes
    gradients through them, and updates running averages; else it takes those averages. `forward`,
    which samples, always does. The averages are plain ones over the first `1 / (1 - momentum)`
    batches, exponential ones after that; before the first batch the layer is the identity, but
    for `epsilon`. A batch that has no spread, of one example, is normalised by the averages.

    Not `tfb.BatchNormalization`: it wraps a layer of tf_keras, whose mode is set at construction
    and whose updates a Keras 3 model does not see, and it cannot be saved in a `.keras` file.
    `Repeat` and `Chain(reversible=True)` refuse this layer in training: the batch's statistics
    cannot be found again from latents.

    Source: Density estimation using Real NVP, arXiv 1605.08803, section 3.7.

    Args:
      shape: an `int`, the size of the last axis (per channel, for events of any rank); or the
        event's shape (per element).
      momentum: weight of the past in the running averages.
      epsilon: added to variances, so it is in the square of the data's unit: for data of a small
        unit, put an `ActNorm` between them and this layer.
      dtype: of the variables; they are cast to that of the input.
      mean, variance, batches: variables to use in place of new ones: the running averages, and
        how many batches they have seen.
      name: name of the bijector.

    Raises:
      ValueError: a momentum outside [0, 1), an epsilon that is not above 0; or on a call, data of
        another shape.

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
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}.")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}.")
        shape = tuple(int(n) for n in np.atleast_1d(shape))
        self.mean = _average(tf.zeros(shape, dtype), "mean") if mean is None else mean
        if variance is None:
            variance = _average(tf.ones(shape, dtype), "variance")
        self.variance = variance
        self.batches = _average(tf.zeros([], dtype), "batches") if batches is None else batches
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

    def _forward_and_log_det(self, x, context):
        self._check_shape(x)
        mean, scale = self._running(x.dtype)
        return x * scale + mean, tf.reduce_sum(tf.math.log(scale))

    def _inverse_and_log_det(self, y, context):
        self._check_shape(y)
        if current().in_training:
            return self._normalize(y)
        return self._by(y, *self._running(y.dtype))

    def _initialize(self, y, context):
        # What comes after it is initialised on what it will see in training.
        return self._normalize(y)[0]

    def _recompute(self, out, d_out, d_log_det, event_ndims, sources, context, forward):
        raise ValueError(
            f"{self.name} cannot be trained by inversion: the statistics of a batch are not to be "
            "found from its latents. Use reversible=False, or ActNorm."
        )

    def _normalize(self, y):
        """By the statistics of the batch, which the averages take in."""
        axes = list(range(y.shape.rank - self.forward_min_event_ndims))
        mean, variance = tf.nn.moments(y, axes)
        examples = tf.reduce_prod(tf.shape(y)[: len(axes)])
        weight = tf.cast(examples > 1, self.batches.dtype)
        count = self.batches + weight
        share = weight * tf.maximum(1 / tf.maximum(count, 1), 1 - self._momentum)
        running = self._running(y.dtype)
        for average, new in ((self.mean, mean), (self.variance, variance)):
            change = tf.cast(tf.stop_gradient(new), average.dtype) - average
            average.assign_add(share * change)
        self.batches.assign(count)
        scale = tf.sqrt(variance + self._epsilon)
        chosen = zip((mean, scale), running, strict=True)
        return self._by(y, *(tf.where(examples > 1, new, old) for new, old in chosen))

    def _running(self, dtype):
        mean, variance = tf.cast(self.mean, dtype), tf.cast(self.variance, dtype)
        return mean, tf.sqrt(variance + self._epsilon)

    def _by(self, y, mean, scale):
        return (y - mean) / scale, -tf.reduce_sum(tf.math.log(scale))

    def _check_shape(self, value):
        event = value.shape[value.shape.rank - self.forward_min_event_ndims :]
        if not event.is_compatible_with(self.mean.shape):
            raise ValueError(
                f"{self.name} was made for {tuple(self.mean.shape)} in the last dimension(s), got "
                f"a tensor of shape {value.shape}."
            )

    def _describe(self):
        return str(tuple(self.mean.shape))


def _average(start: tf.Tensor, name: str) -> tf.Variable:
    """A running average: one value on all replicas, the mean of theirs."""
    mean = tf.VariableAggregation.MEAN
    return tf.Variable(start, trainable=False, aggregation=mean, name=name)
