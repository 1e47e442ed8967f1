"""The bijector under test, and how to evaluate it without TFP's caches."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors


@dataclasses.dataclass
class Subject:
    """A bijector under test.

    Attributes:
      bijector: the bijector.
      x: latents, `[batch, *event]`.
      context: `[batch, width]`, or None.
      rtol: tolerance, relative to the largest value compared.
      xla: whether to check a version compiled by XLA too.
    """

    bijector: tfb.Bijector
    x: tf.Tensor
    context: tf.Tensor | None
    rtol: float
    xla: bool

    @property
    def kwargs(self) -> dict[str, tf.Tensor]:
        """Further arguments of the bijector's methods."""
        return {} if self.context is None else {"context": self.context}

    @property
    def methods(self) -> dict[str, Callable]:
        """The four public methods, as functions of one tensor."""
        b = self.bijector
        return {
            "forward": functools.partial(b.forward, **self.kwargs),
            "inverse": functools.partial(b.inverse, **self.kwargs),
            "forward_log_det_jacobian": functools.partial(
                b.forward_log_det_jacobian, event_ndims=self.x_ndims, **self.kwargs
            ),
            "inverse_log_det_jacobian": functools.partial(
                b.inverse_log_det_jacobian, event_ndims=self.y_ndims, **self.kwargs
            ),
        }

    @property
    def x_ndims(self) -> int:
        """Event rank on the latent side."""
        return self.bijector.forward_min_event_ndims

    @property
    def y_ndims(self) -> int:
        """Event rank on the data side."""
        return self.bijector.inverse_min_event_ndims

    @functools.cached_property
    def y(self) -> tf.Tensor:
        """The data for `x`, in a tensor that no cache knows."""
        return fresh(self.methods["forward"](fresh(self.x)))

    def with_context(self, context: tf.Tensor | None) -> Subject:
        """The same with another context."""
        return dataclasses.replace(self, context=context)

    def arguments(self) -> dict[str, tf.Tensor]:
        """The argument of each method."""
        return {name: self.x if name.startswith("forward") else self.y for name in self.methods}

    def differences(self, what: str, found: Any, expected: Any) -> Iterator[str]:
        """Yields a fault if `found` is not `expected`, within the tolerance."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        try:
            found, expected = np.broadcast_arrays(found, expected)
        except ValueError:
            yield f"{what}: shape {found.shape}, expected {expected.shape}"
            return
        if not np.isfinite(found).all():
            yield f"{what}: not finite"
            return
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        gap = float(np.abs(found - expected).max(initial=0.0))
        if not gap <= self.rtol * scale:
            yield f"{what}: off by {gap:.3g} (values up to {scale:.3g}, tolerance {self.rtol:.1e})"

    def jacobian_log_det(self, name: str) -> np.ndarray | None:
        """`log|det J|` of `forward` or `inverse` for each example, by autodiff, in float64.

        None if the events of the two sides differ in size.
        """
        argument, context = self.arguments()[name], self.context
        ndims = self.x_ndims if name == "forward" else self.y_ndims
        batch = argument.shape[: argument.shape.rank - ndims]
        size, count = math.prod(argument.shape[argument.shape.rank - ndims :]), math.prod(batch)
        if context is not None and context.shape[0] == argument.shape[0]:
            context = _repeated(context, size)
        method = self.with_context(context).methods[name]
        # A copy of the batch for each entry of the event: one gradient then holds all rows.
        copies = _repeated(argument, size)
        with tf.GradientTape() as tape:
            tape.watch(copies)
            value = tf.reshape(method(copies), [size, count, -1])
            if value.shape[2] != size:
                return None
            entries = tf.linalg.diag_part(tf.transpose(value, [1, 0, 2]))
        rows = tf.reshape(tape.gradient(entries, copies), [size, count, size])
        jacobian = np.moveaxis(rows.numpy(), 0, 1).astype(np.float64)
        return np.linalg.slogdet(jacobian)[1].reshape(batch)


def _repeated(tensor: tf.Tensor, times: int) -> tf.Tensor:
    """Copies of a batch, one after the other along the first axis."""
    return tf.tile(tensor, [times] + [1] * (tensor.shape.rank - 1))


def fresh(tensor: tf.Tensor) -> tf.Tensor:
    """The same values in a tensor that no cache knows."""
    return tf.identity(tensor)
