"""Multi-scale flows: a part of the image becomes latent at every scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.chain import Chain
from tfp_flows.core import FlowBijector
from tfp_flows.core.delegating import Delegating
from tfp_flows.core.layers import layers_of_chain
from tfp_flows.core.shapes import check_event_shape

tfb = tfp.bijectors


class MultiScale(Delegating):
    r"""One bijector from a flat latent vector to an image, through several scales.

    From data to latent, scale `i` transforms what the scale before has left; the last half of the
    channels then becomes latent, the first half goes on. The last scale keeps all.

    $$ \log|\det J| = \textstyle\sum_i \log|\det J_i| $$

    A learned conditional prior of the half that is factored out given the other (Glow's split
    prior) is an `AffineCoupling(mask="channel")` at the latent end of a scale's chain: it turns
    that half into standard normal noise, so the whole latent has one plain prior.

    The latent is the concatenation, each part flattened in row-major order, of what scale 0
    (next to the data) factors out, scale 1, ..., and all of the last scale. `split_latent` takes
    it apart, `merge_latents` puts it together.

    Source: Density estimation using Real NVP, arXiv 1605.08803, section 3.6.

    Args:
      scales: bijectors, that of scale 0 first, each from `[h, w, c]` to the next larger image (as
        `Chain([Squeeze(), ...steps])`).
      event_shape: shape of the image, `(height, width, channels)`.
      name: name of the bijector.

    Raises:
      ValueError: if `scales` is empty, or a scale does not fit the shape that reaches it, or leaves
        an odd number of channels to halve.

    Example:
      >>> from tfp_flows import bijectors as fb
      >>> flow = fb.MultiScale([fb.Squeeze(), fb.Squeeze()], event_shape=(4, 4, 1))
      >>> z = flow.inverse(tf.zeros([10, 4, 4, 1]))
      >>> z.shape, [part.shape for part in flow.split_latent(z)]
      (TensorShape([10, 16]), [TensorShape([10, 2, 2, 2]), TensorShape([10, 1, 1, 8])])
    """

    def __init__(
        self,
        scales: Sequence[tfb.Bijector],
        event_shape: Sequence[int],
        name: str = "multiscale",
    ):
        if not scales:
            raise ValueError("MultiScale needs at least one scale.")
        self._scales = [b if isinstance(b, FlowBijector) else Chain([b]) for b in scales]
        self._image_shape = tf.TensorShape(event_shape)
        self._latent_shapes = _latent_shapes(self._scales, self._image_shape)
        self._size = self._image_shape.num_elements()
        super().__init__(
            shapes=tfb.Reshape(event_shape_out=self._image_shape, event_shape_in=[self._size]),
            is_constant_jacobian=all(b.is_constant_jacobian for b in self._scales),
            parameters={"scales": list(scales), "event_shape": tuple(event_shape), "name": name},
            name=name,
        )

    @property
    def scales(self) -> list[tfb.Bijector]:
        """The bijectors, that of scale 0 (next to the data) first."""
        return list(self._scales)

    @property
    def latent_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the parts of the latent, that of scale 0 first."""
        return [tuple(s) for s in self._latent_shapes]

    def split_latent(self, z: Any) -> list[tf.Tensor]:
        """Takes a latent `[..., n]` apart into one tensor `[..., h, w, c]` for each scale."""
        parts = tf.split(z, [math.prod(s) for s in self._latent_shapes], axis=-1)
        pairs = zip(parts, self._latent_shapes, strict=True)
        return [_reshaped(part, 1, shape) for part, shape in pairs]

    def merge_latents(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """The inverse of `split_latent`."""
        rank, pairs = self._image_shape.rank, zip(parts, self._latent_shapes, strict=True)
        return tf.concat([_reshaped(p, rank, [math.prod(s)]) for p, s in pairs], axis=-1)

    def _forward_and_log_det(self, x, context):
        check_event_shape(self.name, [self._size], x)
        *outer, value = self.split_latent(x)
        rank, total = self._image_shape.rank, tf.zeros([], x.dtype)
        for scale in reversed(self._scales):
            value, log_det = scale.forward_and_log_det(value, rank, context)
            total += log_det
            if outer:
                value = tf.concat([value, outer.pop()], axis=-1)
        return value, total

    def _inverse_and_log_det(self, y, context):
        rank = self._image_shape.rank
        z, log_dets = self._descend(y, lambda b, value: b.inverse_and_log_det(value, rank, context))
        return z, sum(log_dets)

    def _initialize(self, y, context):
        return self._descend(y, lambda b, value: (b._initialize(value, context), None))[0]

    def layers(self, path):
        return layers_of_chain(self._scales, path, "scales")

    def visit_layers(self, y, context, measure, found):
        def step(b, value):
            return b.visit_layers(value, context, measure, found), None

        return self._descend(y, step)[0]

    def _descend(
        self, y: tf.Tensor, step: Callable[[FlowBijector, tf.Tensor], tuple[tf.Tensor, Any]]
    ) -> tuple[tf.Tensor, list]:
        """From data to latent, with `(value, extra) = step(bijector, value)` at each scale."""
        check_event_shape(self.name, self._image_shape, y)
        parts, extras, value = [], [], y
        for scale in self._scales:
            if parts:  # one half of the channels goes on
                value, parts[-1] = tf.split(parts[-1], 2, axis=-1)
            value, extra = step(scale, value)
            parts.append(value)
            extras.append(extra)
        return self.merge_latents(parts), extras

    def _describe(self):
        return ", ".join(repr(b) for b in self._scales)


def _latent_shapes(
    scales: Sequence[tfb.Bijector], event_shape: tf.TensorShape
) -> list[tf.TensorShape]:
    shapes = []
    shape = event_shape
    for i, b in enumerate(scales):
        shape = b.inverse_event_shape(shape)
        if i < len(scales) - 1:
            if shape[-1] % 2:
                raise ValueError(
                    f"Scale {i} leaves {shape[-1]} channels (shape {tuple(shape)}), which cannot "
                    "be cut in half. Squeeze at each scale, or use fewer scales."
                )
            shape = shape[:-1] + [shape[-1] // 2]
        shapes.append(shape)
    return shapes


def _reshaped(tensor: tf.Tensor, ndims: int, event: Sequence[int]) -> tf.Tensor:
    """Gives the last `ndims` dimensions another shape."""
    out = tf.reshape(tensor, tf.concat([tf.shape(tensor)[:-ndims], event], 0))
    out.set_shape(tensor.shape[:-ndims] + event)
    return out
