"""Integer pixels, modelled by a continuous flow."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.copying import Copyable
from tfp_flows.core.evaluation import noise_seed
from tfp_flows.core.numerics import rounding_unit
from tfp_flows.core.variables import FrozenByNetworks
from tfp_flows.distributions.conditioned import Conditional
from tfp_flows.distributions.context import ContextSpec
from tfp_flows.distributions.density import (
    Density,
    assert_none,
    flat_log_prob,
    ranks_are_known,
)
from tfp_flows.distributions.flow import Flow

tfd = tfp.distributions


class Dequantized(FrozenByNetworks, Copyable, Conditional, Density, tfd.Distribution):
    r"""A distribution over integer images, modelled by a continuous flow.

    The flow models `(i + u) / levels - 1/2`, for pixels `i` in `0 ... levels - 1` and noise `u` in
    (0, 1). `log_prob` is the dequantisation bound in nats,

    $$ \log P(i) \ge \mathbb{E}_{u \sim q} \big[ \log p\big(\tfrac{i + u}{n} - \tfrac12\big)
       - \log q(u | i) \big] - d \log n, $$

    for `n` levels and `d` pixels, estimated with `num_samples` draws of noise. Bits per dimension
    are `-log_prob / (d log 2)`, with no constant to add. The noise is uniform, `q = 1`, or comes
    from a `dequantizer`, whose variables are trained together with those of the flow.

    With `importance_weighted` the bound is the logarithm of the mean of the weights `p / q`. It is
    tighter on average the more draws there are, and the exact log-probability in the limit: to
    evaluate a trained flow, `pixels.copy(num_samples=100, importance_weighted=True)` shares its
    variables.

    Source: A note on the evaluation of generative models, arXiv 1511.01844 (uniform noise);
    Flow++, arXiv 1902.00275, sections 3.1 and 4 (variational and importance-weighted).

    Args:
      flow: a `tfd.Distribution` over images with floating-point pixels.
      levels: number of grey levels, 2 or more.
      num_samples: draws of noise per evaluation. Without `importance_weighted`, more draws reduce
        the variance of the bound, not its gap.
      dequantizer: a conditional flow over the noise, such as `flows.dequantizer(event_shape)`,
        whose context is the image (the centres of the pixels' bins); None for uniform noise.
      importance_weighted: whether the bound is the importance-weighted one.
      name: name of the distribution.

    `log_prob` and `sample` take a `seed`; without one the noise is new at every call. If the
    flow is conditional, they take its `context`, as does `condition(context)`. Pixels may be of any
    integer dtype, or whole floating-point numbers.

    Raises:
      TypeError: if the flow is not continuous, or the dequantizer is not a `Flow`.
      ValueError: if `levels < 2` or `num_samples < 1`, if the flow's dtype cannot distinguish the
        levels, or if the dequantizer is not one for this flow.

    Raises (from `log_prob`):
      ValueError: if pixels are outside the levels or not whole (in graph mode:
        `tf.errors.InvalidArgumentError`; XLA skips that check).

    Example:
      >>> uniform = tfd.Independent(tfd.Uniform([-0.5, -0.5], [0.5, 0.5]), 1)
      >>> pixels = Dequantized(uniform, levels=8)
      >>> float(pixels.log_prob([0, 7])), -2 * math.log(8)
      (-4.158883094787598, -4.1588830833596715)
    """

    def __init__(
        self,
        flow: tfd.Distribution,
        levels: int = 256,
        num_samples: int = 1,
        dequantizer: Flow | None = None,
        importance_weighted: bool = False,
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
        finest = int(0.5 / rounding_unit(flow.dtype))
        if levels > finest:
            raise ValueError(
                f"{flow.dtype.name} distinguishes at most {finest} levels, got levels={levels}. "
                "Give fewer levels, or a flow with a finer dtype."
            )
        if dequantizer is not None:
            _validate_dequantizer(dequantizer, flow)
        self._flow = flow
        self._dequantizer = dequantizer
        self._levels = int(levels)
        self._num_samples = int(num_samples)
        self._importance_weighted = bool(importance_weighted)
        shape = getattr(flow, "context_shape", None)
        self._context = ContextSpec(shape, getattr(flow, "context_dtype", flow.dtype), name)
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
    def dequantizer(self) -> Flow | None:
        """The distribution of the noise; None where it is uniform."""
        return self._dequantizer

    @property
    def levels(self) -> int:
        """Number of grey levels."""
        return self._levels

    def validated_context(self, context: Any) -> tf.Tensor | None:
        if self.context_shape is None:
            return super().validated_context(context)
        return self._flow.validated_context(context)  # which knows its labels

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {"flow": tfp.util.BatchedComponentProperties()}

    def _event_shape(self) -> tf.TensorShape:
        return self._flow.event_shape

    def _event_shape_tensor(self) -> tf.Tensor:
        return self._flow.event_shape_tensor()

    def dequantize(self, pixels: Any, noise: Any) -> tf.Tensor:
        """The flow's values in (-1/2, 1/2) for integer pixels and noise in [0, 1].

        Despite rounding, a value lies strictly within its pixel's bin, so `quantize` returns the
        same pixel, and a data bijector with the bounds -1/2 and 1/2 has a latent for it.
        """
        first = tf.cast(pixels, self._flow.dtype) - self._levels // 2  # exact
        first -= 0.5 * (self._levels % 2)
        low, high = first / self._levels, (first + 1) / self._levels
        margin = rounding_unit(low.dtype) * tf.maximum(
            tf.maximum(tf.abs(low), tf.abs(high)), 1 / self._levels
        )
        return tf.clip_by_value((first + noise) / self._levels, low + margin, high - margin)

    def bin_centers(self, pixels: Any) -> tf.Tensor:
        """The flow's values in the middle of the pixels' bins, the dequantizer's context."""
        return self.dequantize(pixels, tf.constant(0.5, self._flow.dtype))

    def quantize(self, values: Any) -> tf.Tensor:
        """The pixels nearest to the flow's values, within the levels.

        Raises:
          ValueError: if a value is NaN (in graph mode: `tf.errors.InvalidArgumentError`; XLA skips
            that check).
        """
        values = tf.convert_to_tensor(values)
        message = f"{self.name}: NaN is not a pixel; the flow's values are not finite."
        with tf.control_dependencies(assert_none(tf.math.is_nan(values), message)):
            # As in `dequantize`: adding 1/2 would round small values.
            pixels = tf.floor(values * self._levels + 0.5 * (self._levels % 2))
        pixels += self._levels // 2
        return tf.cast(tf.clip_by_value(pixels, 0, self._levels - 1), self.dtype)

    def validate_pixels(self, pixels: tf.Tensor) -> list[tf.Operation]:
        """Validates pixels of any dtype; in a graph returns assertions to run.

        Raises:
          ValueError: if they do not have the event shape; in eager mode also if one is outside the
            levels or not whole.
        """
        event = pixels.shape[max(pixels.shape.rank - len(self.event_shape), 0) :]
        if not event.is_compatible_with(self.event_shape):
            raise ValueError(
                f"{self.name} has event shape {tuple(self.event_shape)}, got pixels of shape "
                f"{pixels.shape}; the last dimensions must be the event's."
            )
        pixels = tf.cast(pixels, tf.float64)  # small integer types cannot hold every level
        invalid = (pixels < 0) | (pixels > self._levels - 1)
        invalid |= pixels != tf.floor(pixels)  # NaN is not equal to itself
        message = (
            f"{self.name} takes whole pixels in 0 ... {self._levels - 1} (levels={self._levels}). "
            "Set `levels`, or scale the images back to integers."
        )
        return assert_none(
            invalid,
            message,
            lambda: f" The range is {pixels.numpy().min():g} ... {pixels.numpy().max():g}.",
        )

    def _log_prob(self, value, seed=None, context=None) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        context = self.validated_context(context)
        if not ranks_are_known(value, context):
            return flat_log_prob(self, value, context, seed=seed)
        with tf.control_dependencies(self.validate_pixels(value)):
            value = tf.cast(tf.identity(value), self.dtype)
        if context is not None:
            ndims = len(self.event_shape), len(self.context_shape)
            value, _ = self._context.broadcast(value, ndims[0], context, ndims[1])
        noise, log_q = self._draw_noise(value, seed)
        kwargs = {} if context is None else {"context": context}
        bound = self._flow.log_prob(self.dequantize(value, noise), **kwargs) - log_q
        if self._num_samples > 1 and self._importance_weighted:
            bound = tf.reduce_logsumexp(bound, axis=0) - math.log(self._num_samples)
        elif self._num_samples > 1:
            bound = tf.reduce_mean(bound, axis=0)
        return bound - self.event_shape.num_elements() * math.log(self._levels)

    def _draw_noise(self, value: tf.Tensor, seed: Any) -> tuple[tf.Tensor, tf.Tensor | float]:
        """Noise for each pixel and its log-density, `[num_samples, ...]` if that is 2 or more."""
        draws = [self._num_samples] if self._num_samples > 1 else []
        seed = noise_seed(self) if seed is None else tfp.random.sanitize_seed(seed)
        if self._dequantizer is not None:
            batch = tf.shape(value)[: value.shape.rank - len(self.event_shape)]
            noise, log_q = self._dequantizer.experimental_sample_and_log_prob(
                tf.concat([draws, batch], 0), seed=seed, context=self.bin_centers(value)
            )
        else:
            shape, dtype = tf.concat([draws, tf.shape(value)], 0), self._flow.dtype
            noise = tf.random.stateless_uniform(shape, seed, dtype=dtype)
            log_q = 0.0
        noise.set_shape([*draws, *value.shape])
        return noise, log_q

    def _call_sample_n(self, sample_shape, seed, **kwargs) -> tf.Tensor:
        return self.quantize(self._flow.sample(sample_shape, seed=seed, **kwargs))

    def _default_event_space_bijector(self) -> None:
        return None  # as for discrete distributions of TFP

    def __repr__(self) -> str:
        return f"Dequantized({self._flow!r}, levels={self._levels})"

    __str__ = __repr__


def _validate_dequantizer(dequantizer: Flow, flow: tfd.Distribution) -> None:
    """Raises an error unless it is a flow over the noise for images of `flow`."""
    if not isinstance(dequantizer, Flow):
        found = type(dequantizer).__name__
        raise TypeError(f"A dequantizer is a Flow, as flows.dequantizer makes it; got {found}.")
    event = tuple(flow.event_shape)
    found = tuple(dequantizer.event_shape), dequantizer.context_shape, dequantizer.dtype.name
    if found != (event, event, flow.dtype.name):
        raise ValueError(
            f"For this flow a dequantizer must have event_shape={event}, the image as context, "
            f"context_shape={event}, and dtype {flow.dtype.name}; got event_shape={found[0]}, "
            f"context_shape={found[1]} and {found[2]}. See flows.dequantizer."
        )
