"""Integer pixels, modelled by a continuous flow."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class Dequantized(tfd.Distribution):
    r"""A distribution over integer images around a continuous flow.

    Pixels `i` in `0 ... levels - 1` become `(i + u) / levels - 1/2` with uniform noise `u`, which
    the flow models. `log_prob` is the dequantisation bound in nats,

    $$ \log P(i) \ge \mathbb{E}_u \log p\big(\tfrac{i + u}{n} - \tfrac12\big) - d \log n, $$

    estimated with `num_samples` draws of noise, `n` levels and `d` pixels. So bits per dimension
    are `-log_prob / (d log 2)`, with no constant to add by hand.

    Source: A note on the evaluation of generative models, arXiv 1511.01844.

    Args:
      flow: a `tfd.Distribution` over images with floating-point pixels.
      levels: number of grey levels, 2 or more.
      num_samples: draws of noise per evaluation; more make it less noisy, not better.
      name: name of the distribution.

    `log_prob` and `sample` take a `seed`; without one the noise is new at every call.

    Raises (from `log_prob`):
      ValueError: pixels outside the levels, or not whole (in graph mode:
        `tf.errors.InvalidArgumentError`; XLA leaves that check out).

    Example:
      >>> uniform = tfd.Independent(tfd.Uniform([-0.5, -0.5], [0.5, 0.5]), 1)
      >>> pixels = Dequantized(uniform, levels=8)
      >>> float(pixels.log_prob([0, 7])), -2 * math.log(8)
      (-4.158883094787598, -4.1588830833596715)
    """

    _TF_MODULE_IGNORED_PROPERTIES = tfd.Distribution._TF_MODULE_IGNORED_PROPERTIES | {"_parameters"}

    def __init__(
        self,
        flow: tfd.Distribution,
        levels: int = 256,
        num_samples: int = 1,
        name: str = "dequantized",
    ):
        parameters = dict(locals())
        if levels < 2 or num_samples < 1 or levels != int(levels):
            raise ValueError(
                f"levels must be a whole number of 2 or more and num_samples 1 or more, got "
                f"{levels} and {num_samples}."
            )
        if not flow.dtype.is_floating:
            raise TypeError(f"Dequantized needs a continuous flow, got one of {flow.dtype.name}.")
        self._flow = flow
        self._levels = int(levels)
        self._num_samples = int(num_samples)
        super().__init__(
            dtype=tf.int32,
            reparameterization_type=tfd.NOT_REPARAMETERIZED,
            validate_args=True,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @property
    def flow(self) -> tfd.Distribution:
        """The continuous flow."""
        return self._flow

    @property
    def levels(self) -> int:
        """Number of grey levels."""
        return self._levels

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {"flow": tfp.util.BatchedComponentProperties()}

    def _event_shape(self):
        return self._flow.event_shape

    def _event_shape_tensor(self):
        return self._flow.event_shape_tensor()

    def dequantize(self, pixels, noise) -> tf.Tensor:
        """Integer pixels and noise in [0, 1) to the flow's values in [-1/2, 1/2)."""
        return (tf.cast(pixels, self._flow.dtype) + noise) / self._levels - 0.5

    def quantize(self, values) -> tf.Tensor:
        """The flow's values to the nearest integer pixels, within the levels."""
        pixels = tf.floor((values + 0.5) * self._levels)
        return tf.cast(tf.clip_by_value(pixels, 0, self._levels - 1), self.dtype)

    def _call_log_prob(self, value, name, **kwargs):
        value = tf.convert_to_tensor(value)
        with tf.control_dependencies(self.check_pixels(value)):
            return super()._call_log_prob(tf.cast(value, self.dtype), name, **kwargs)

    def _call_prob(self, value, name, **kwargs):
        return tf.exp(self._call_log_prob(value, name, **kwargs))

    def _call_unnormalized_log_prob(self, value, name, **kwargs):
        return self._call_log_prob(value, name, **kwargs)

    def check_pixels(self, pixels) -> list:
        """Finds what is no pixel: raises in eager mode, in a graph returns assertions to run.

        TFP casts to the distribution's dtype, so this must come before it.
        """
        event = pixels.shape[max(pixels.shape.rank - len(self.event_shape), 0) :]
        if not event.is_compatible_with(self.event_shape):
            raise ValueError(
                f"{self.name} has event shape {tuple(self.event_shape)}, got pixels of shape "
                f"{pixels.shape}; the last dimensions must be the event's."
            )
        pixels = tf.cast(pixels, tf.float64)  # small integer types cannot hold every level
        wrong = (pixels < 0) | (pixels > self._levels - 1)
        wrong |= pixels != tf.floor(pixels)  # NaN is not equal to itself
        count = tf.math.count_nonzero(wrong)
        message = (
            f"{self.name} takes whole pixels in 0 ... {self._levels - 1} (levels={self._levels}). "
            "Got values that are not: set `levels`, or scale the images back to integers."
        )
        if tf.executing_eagerly():
            if count:
                raise ValueError(
                    f"{message} {int(count)} of {int(tf.size(pixels))} values; the range is "
                    f"{pixels.numpy().min():g} ... {pixels.numpy().max():g}."
                )
            return []
        return [tf.debugging.assert_equal(count, tf.zeros_like(count), message)]

    def _log_prob(self, value, seed=None, **kwargs):
        shape = tf.concat([[self._num_samples], tf.shape(value)], 0)
        if seed is None:
            noise = tf.random.uniform(shape, dtype=self._flow.dtype)
        else:
            seed = tfp.random.sanitize_seed(seed)
            noise = tf.random.stateless_uniform(shape, seed, dtype=self._flow.dtype)
        noise.set_shape([self._num_samples, *value.shape])
        if self._num_samples == 1:
            continuous = self._flow.log_prob(self.dequantize(value, noise[0]), **kwargs)
        else:
            values = self.dequantize(value[tf.newaxis], noise)
            continuous = tf.reduce_mean(self._flow.log_prob(values, **kwargs), axis=0)
        return continuous - self.event_shape.num_elements() * math.log(self._levels)

    def _sample_n(self, n, seed=None, **kwargs):
        return self.quantize(self._flow.sample(n, seed=seed, **kwargs))

    def __repr__(self) -> str:
        return f"Dequantized({self._flow!r}, levels={self._levels})"

    __str__ = __repr__
