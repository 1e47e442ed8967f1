"""Multi-scale flows: a part of the image becomes latent at every level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.chain import Chain
from tfp_flows.core import FlowBijector
from tfp_flows.core.layers import layers_of_chain

tfb = tfp.bijectors


class MultiScale(FlowBijector):
    r"""One bijector from a flat latent vector to an image, through several levels.

    From data to latent, level `i` transforms what the level before has left; the last half of
    the channels then becomes latent, the first half goes on. The last level keeps all.

    $$ \log|\det J| = \textstyle\sum_i \log|\det J_i| $$

    A learned conditional prior of the factored-out half given the kept half (Glow's split
    prior) is an `AffineCoupling(mask="channel")` at the latent end of a level's chain: it turns
    that half into standard normal noise, so the whole latent has one plain prior.

    The latent is the concatenation, each part flattened in row-major order, of what level 0
    (next to the data) factors out, level 1, ..., and all of the last level. `split_latent` takes
    it apart, `merge_latents` puts it together.

    Source: Density estimation using Real NVP, arXiv 1605.08803, section 3.6.

    Args:
      scales: bijectors, level 0 first, each from `[h, w, c]` to the next larger image (as
        `Chain([Squeeze(), ...steps])`).
      event_shape: shape of the image, `(height, width, channels)`.
      name: name of the bijector.

    Raises:
      ValueError: a level does not fit the shape that reaches it, or has odd channels to halve.

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
        parameters = {"scales": list(scales), "event_shape": tuple(event_shape), "name": name}
        if not scales:
            raise ValueError("MultiScale needs at least one level.")
        self._scales = [b if isinstance(b, FlowBijector) else Chain([b]) for b in scales]
        self._image_shape = tf.TensorShape(event_shape)
        self._latent_shapes = _latent_shapes(self._scales, self._image_shape)
        super().__init__(
            forward_min_event_ndims=1,
            inverse_min_event_ndims=self._image_shape.rank,
            is_constant_jacobian=all(b.is_constant_jacobian for b in self._scales),
            parameters=parameters,
            name=name,
        )

    @property
    def scales(self) -> list[tfb.Bijector]:
        """The levels, the one next to the data first."""
        return list(self._scales)

    @property
    def latent_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the latent's parts, level 0 first."""
        return [tuple(s) for s in self._latent_shapes]

    def split_latent(self, z: tf.Tensor) -> list[tf.Tensor]:
        """Takes a latent `[..., n]` apart into one tensor `[..., h, w, c]` a level."""
        z = tf.convert_to_tensor(z)
        sizes = [math.prod(s) for s in self._latent_shapes]
        batch = tf.shape(z)[:-1]
        parts = tf.split(z, sizes, axis=-1)
        out = [
            tf.reshape(p, tf.concat([batch, s], 0))
            for p, s in zip(parts, self._latent_shapes, strict=True)
        ]
        for part, shape in zip(out, self._latent_shapes, strict=True):
            part.set_shape(z.shape[:-1] + shape)
        return out

    def merge_latents(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """The inverse of `split_latent`."""
        rank = self._image_shape.rank
        flat = []
        for part, shape in zip(parts, self._latent_shapes, strict=True):
            size = math.prod(shape)
            out = tf.reshape(part, tf.concat([tf.shape(part)[:-rank], [size]], 0))
            out.set_shape(part.shape[:-rank] + [size])
            flat.append(out)
        return tf.concat(flat, axis=-1)

    def _forward_and_log_det(self, x, context):
        self._check_event(x.shape[-1:], self._inverse_event_shape(self._image_shape), x)
        *outer, value = self.split_latent(x)
        rank, total = self._image_shape.rank, tf.zeros([], x.dtype)
        for level in reversed(self._scales):
            value, log_det = level.forward_and_log_det(value, rank, context)
            total += log_det
            if outer:
                value = tf.concat([value, outer.pop()], axis=-1)
        return value, total

    def _inverse_and_log_det(self, y, context):
        def step(level, value):
            return level.inverse_and_log_det(value, self._image_shape.rank, context)

        parts, log_dets = self._descend(y, step)
        return self.merge_latents(parts), sum(log_dets)

    def _initialize(self, y, context):
        parts, _ = self._descend(y, lambda level, value: (level._initialize(value, context), None))
        return self.merge_latents(parts)

    def layers(self, path):
        return layers_of_chain(self._scales, path, "scales")

    def visit_layers(self, y, context, measure, found):
        def step(level, value):
            return level.visit_layers(value, context, measure, found), None

        return self.merge_latents(self._descend(y, step)[0])

    def _descend(self, y, step):
        """From data to latent, level by level, halving the channels between levels."""
        self._check_event(y.shape[-self._image_shape.rank :], self._image_shape, y)
        parts, extras, value = [], [], y
        for level in self._scales[:-1]:
            value, extra = step(level, value)
            value, factored_out = tf.split(value, 2, axis=-1)
            parts.append(factored_out)
            extras.append(extra)
        value, extra = step(self._scales[-1], value)
        return [*parts, value], [*extras, extra]

    def _check_event(self, event, expected, value):
        if not event.is_compatible_with(expected):
            raise ValueError(
                f"{self.name} expects events of shape {tuple(expected)} on this side, got a tensor "
                f"of shape {value.shape}."
            )

    def _forward_event_shape(self, shape):
        return shape[:-1] + self._image_shape

    def _inverse_event_shape(self, shape):
        return shape[: -self._image_shape.rank] + [self._image_shape.num_elements()]

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape[:-1], self._image_shape], 0)

    def _inverse_event_shape_tensor(self, shape):
        size = self._image_shape.num_elements()
        return tf.concat([shape[: -self._image_shape.rank], [size]], 0)

    def _describe(self):
        return ", ".join(repr(b) for b in self._scales)


def _latent_shapes(levels, event_shape: tf.TensorShape) -> list[tf.TensorShape]:
    shapes = []
    shape = event_shape
    for i, level in enumerate(levels):
        shape = level.inverse_event_shape(shape)
        if i < len(levels) - 1:
            if shape[-1] % 2:
                raise ValueError(
                    f"Level {i} leaves {shape[-1]} channels (shape {tuple(shape)}), which cannot "
                    "be cut in half. Squeeze at each level, or use fewer levels."
                )
            shape = shape[:-1] + [shape[-1] // 2]
        shapes.append(shape)
    return shapes
