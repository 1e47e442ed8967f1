"""Multi-scale image flows of equal steps: what Glow and its relatives share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp
from tfp_flows.conditioners.dense import add_context, input_of
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    check_context_shape,
    check_counts,
    check_event_shape,
    flow_of,
)
from tfp_flows.keras_engine import keras

tfb = tfp.bijectors

Image = tuple[int, int, int]


@dataclasses.dataclass
class Levels:
    """A flow of levels: each squeezes 2x2 pixels into channels, takes equal steps, and factors
    out half of the channels. The fields are arguments of `glow`.

    Raises:
      ValueError: an event shape that cannot be squeezed `levels` times.
    """

    event_shape: Sequence[int]
    levels: int
    steps: int
    split_prior: bool
    stacked: bool
    reversible: bool
    context_shape: Sequence[int] | int | None
    standardize_context: bool
    dtype: tf.DType
    name: str

    def __post_init__(self):
        self.event_shape = h, w, _ = check_event_shape(self.event_shape, (3,), self.name)
        check_counts(levels=self.levels, steps=self.steps)
        self.context_shape = check_context_shape(self.context_shape, (1,), self.name)
        times = 2**self.levels
        if h % times or w % times:
            raise ValueError(
                f"{self.name} halves height and width {self.levels} times, so both must be "
                f"divisible by {times}; got {h}x{w}. Pad the images, or use fewer levels."
            )

    def flow(
        self,
        make_step: Callable[[Image], tfb.Bijector],
        network_dtype: str,
        data_bijector: tfb.Bijector | None,
    ) -> Flow:
        """The flow.

        Args:
          make_step: makes a step for images of a shape `(height, width, channels)`.
          network_dtype: Keras's dtype policy for the networks of the priors.
          data_bijector: applied last, next to the data.
        """
        h, w, c = self.event_shape
        scales = []
        for level in range(self.levels):
            h, w, c = h // 2, w // 2, c * 4
            parts = [fb.Squeeze(), self._steps(make_step, (h, w, c))]
            if level == self.levels - 1:
                parts += self._last_prior(c, network_dtype)
            else:
                if self.split_prior:
                    parts.append(self._split_prior((h, w, c // 2), c, network_dtype))
                c //= 2
            scales.append(fb.Chain(parts))
        bijector = fb.MultiScale(scales, self.event_shape)
        return flow_of(
            bijector,
            data_bijector,
            self.event_shape,
            self.dtype,
            self.context_shape,
            self.standardize_context,
            self.name,
        )

    def _steps(self, make_step: Callable[[Image], tfb.Bijector], image: Image) -> tfb.Bijector:
        if self.stacked:
            return fb.Repeat(make_step(image), self.steps, self.reversible)
        return fb.Chain(
            [b for _ in range(self.steps) for b in make_step(image).bijectors], self.reversible
        )

    def _split_prior(self, inputs: Image, outputs: int, dtype: str) -> fb.AffineCoupling:
        """The factored-out half, standardised given the half that goes on."""
        kept = input_of(inputs, dtype)
        given, x = add_context(kept, self.context_shape, dtype)
        zeros = keras.layers.Conv2D(
            outputs, 3, padding="same", kernel_initializer="zeros", dtype=dtype
        )
        net = keras.Model([kept, *given] if given else kept, zeros(x), name="split_prior")
        return fb.AffineCoupling(net, mask="channel", scale_map="clamp", name="split_prior")

    def _last_prior(self, channels: int, dtype: str) -> list[tfb.Bijector]:
        """What remains at the end, standardised given the context, if there is one."""
        if self.context_shape is None:
            return []
        net = mlp(self.context_shape[0], 2 * channels, (), dtype=dtype, name="context_prior")
        return [fb.ContextAffine(net, event_ndims=3)]
