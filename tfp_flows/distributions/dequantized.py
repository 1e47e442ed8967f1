"""Integer pixels, modelled by a continuous flow."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.copying import Copyable
from tfp_flows.core.evaluation import noise_seed
from tfp_flows.core.numerics import rounding_unit
from tfp_flows.core.variables import FrozenByNetworks
from tfp_flows.distributions.conditioned import Conditioned
from tfp_flows.distributions.context import ContextSpec
from tfp_flows.distributions.density import Density, flat_log_prob, ranks_are_known
from tfp_flows.distributions.flow import Flow

tfd = tfp.distributions


class Dequantized(FrozenByNetworks, Copyable, Density, tfd.Distribution):
    r"""A distribution over integer images around a continuous flow.

    Pixels `i` in `0 ... levels - 1` become `(i + u) / levels - 1/2` with noise `u` in (0, 1), which
    the flow models. `log_prob` is the dequantisation bound in nats,

    $$ \log P(i) \ge \mathbb{E}_{u \sim q} \big[ \log p\big(\tfrac{i + u}{n} - \tfrac12\big)
       - \log q(u | i) \big] - d \log n, $$

    estimated with `num_samples` draws of noise, `n` levels and `d` pixels. So bits per dimension
    are `-log_prob / (d log 2)`, with no constant to add by hand. The noise is uniform, `q = 1`,
    or that of a `dequantizer`, whose variables are trained with those of the flow.

    With `importance_weighted`, the mean over the draws is taken of the weights `p / q`, and the
    logarithm after it. That bound is tighter on average the more draws there are, and the exact
    log-probability in the limit: for the evaluation of a trained flow,
    `pixels.copy(num_samples=100, importance_weighted=True)` shares its variables.

    Source: A note on the evaluation of generative models, arXiv 1511.01844 (uniform noise);
    Flow++, arXiv 1902.00275, sections 3.1 and 4 (variational and importance-weighted).

    Args:
      flow: a `tfd.Distribution` over images with floating-point pixels.
      levels: number of grey levels, 2 or more.
      num_samples: draws of noise per evaluation. Without `importance_weighted`, more make it
        less noisy, not better.
      dequantizer: a conditional flow over the noise, as `flows.dequantizer(event_shape)`, whose
        context is the image (the middle of each pixel's bin, as the flow sees it); None for
        uniform noise.
      importance_weighted: whether the bound is the importance-weighted one.
      name: name of the distribution.

    `log_prob` and `sample` take a `seed`; without one the noise is new at every call. If the
    flow is conditional, they take its `context`, as does `condition(context)`.

    Raises (from `log_prob`):
      ValueError: pixels outside the levels, or not whole (in graph mode:
        `tf.errors.InvalidArgumentError`; XLA leaves that check out). Pixels may be of any integer
        dtype, or floating-point numbers that are whole.

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
                f"{flow.dtype.name} tells at most {finest} levels apart, got levels={levels}. "
                "Give fewer levels, or a flow with a finer dtype."
            )
        if dequantizer is not None:
            _check_dequantizer(dequantizer, flow)
        self._flow = flow
        self._dequantizer = dequantizer
        self._levels = int(levels)
        self._num_samples = int(num_samples)
        self._importance_weighted = bool(importance_weighted)
        shape, kind = getattr(flow, "context_shape", None), getattr(flow, "context_dtype", None)
        self._context = self._no_dependency(ContextSpec(shape, kind, None, name))
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

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one example's context; None for a flow that takes none."""
        return self._context.shape

    @property
    def context_dtype(self) -> tf.DType:
        """The dtype of contexts."""
        return self._context.dtype

    def validated_context(self, context) -> tf.Tensor | None:
        """The context as a tensor; raises ValueError if it is missing, unwanted or misshaped."""
        if self.context_shape is None:
            return self._context.checked(context)
        return self._flow.validated_context(context)

    def condition(self, context) -> Conditioned:
        """These pixels given a context, as a plain distribution; see `Flow.condition`."""
        return Conditioned(self, context)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {"flow": tfp.util.BatchedComponentProperties()}

    def _event_shape(self):
        return self._flow.event_shape

    def _event_shape_tensor(self):
        return self._flow.event_shape_tensor()

    def dequantize(self, pixels, noise) -> tf.Tensor:
        """Integer pixels and noise in [0, 1] to the flow's values in (-1/2, 1/2).

        A value lies strictly within its pixel's bin, whatever is rounded, so that `quantize`
        finds the pixel again, and a data bijector with the bounds -1/2 and 1/2 a latent.
        """
        first = tf.cast(pixels, self._flow.dtype) - self._levels // 2  # exact
        first -= 0.5 * (self._levels % 2)
        low, high = first / self._levels, (first + 1) / self._levels
        margin = rounding_unit(low.dtype) * tf.maximum(
            tf.maximum(tf.abs(low), tf.abs(high)), 1 / self._levels
        )
        return tf.clip_by_value((first + noise) / self._levels, low + margin, high - margin)

    def bin_centers(self, pixels) -> tf.Tensor:
        """The flow's values in the middle of the pixels' bins: what the dequantizer is given."""
        return self.dequantize(pixels, tf.constant(0.5, self._flow.dtype))

    def quantize(self, values) -> tf.Tensor:
        """The flow's values to the nearest integer pixels, within the levels.

        Raises:
          ValueError: a value is NaN, which is not a pixel (in graph mode:
            `tf.errors.InvalidArgumentError`; XLA leaves that check out).
        """
        values = tf.convert_to_tensor(values)
        with tf.control_dependencies(self._check_numbers(values)):
            # As in `dequantize`: to add 1/2 would round small values.
            pixels = tf.floor(values * self._levels + 0.5 * (self._levels % 2))
        pixels += self._levels // 2
        return tf.cast(tf.clip_by_value(pixels, 0, self._levels - 1), self.dtype)

    def _check_numbers(self, values) -> list:
        count = tf.math.count_nonzero(tf.math.is_nan(values))
        message = f"{self.name}: NaN is not a pixel; the flow's values are not finite."
        if tf.executing_eagerly():
            if count:
                raise ValueError(
                    f"{message} {int(count)} of {int(tf.size(values))} values are NaN."
                )
            return []
        return [tf.debugging.assert_equal(count, tf.zeros_like(count), message)]

    def _call_log_prob(self, value, name, **kwargs):
        value = tf.convert_to_tensor(value)
        context = self.validated_context(kwargs.get("context"))
        if not ranks_are_known(value, context):
            return flat_log_prob(self, value, **kwargs | {"context": context})
        with tf.control_dependencies(self.validate_pixels(value)):
            return super()._call_log_prob(tf.cast(value, self.dtype), name, **kwargs)

    def validate_pixels(self, pixels) -> list:
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

    def _log_prob(self, value, seed=None, context=None):
        context = self.validated_context(context)
        if context is not None:
            ndims = len(self.event_shape), len(self.context_shape)
            value, _ = self._context.broadcast(value, ndims[0], context, ndims[1])
        noise, log_q = self._draw_noise(value, seed)
        given = {} if context is None else {"context": context}
        bound = self._flow.log_prob(self.dequantize(value, noise), **given) - log_q
        if self._num_samples > 1 and self._importance_weighted:
            bound = tf.reduce_logsumexp(bound, axis=0) - math.log(self._num_samples)
        elif self._num_samples > 1:
            bound = tf.reduce_mean(bound, axis=0)
        return bound - self.event_shape.num_elements() * math.log(self._levels)

    def _draw_noise(self, value, seed) -> tuple[tf.Tensor, tf.Tensor | float]:
        """Noise for each pixel and its log-density; if there are several draws, they come first."""
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

    def _call_sample_n(self, sample_shape, seed, **kwargs):
        return self.quantize(self._flow.sample(sample_shape, seed=seed, **kwargs))

    def _default_event_space_bijector(self):
        return None  # as TFP does for what is discrete

    def __repr__(self) -> str:
        return f"Dequantized({self._flow!r}, levels={self._levels})"

    __str__ = __repr__


def _check_dequantizer(dequantizer: Flow, flow: tfd.Distribution) -> None:
    """Raises unless it is a flow of noise for the images of `flow`, given these."""
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
