"""Composition that evaluates each part once."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import FlowBijector

tfb = tfp.bijectors


class Chain(FlowBijector):
    r"""Composes bijectors, ours and TFP's: `Chain([f, g]).forward(x) = f(g(x))`.

    $$ \log|\det J_{f \circ g}(x)| = \log|\det J_g(x)| + \log|\det J_f(g(x))| $$

    As `tfb.Chain`, but a log-prob runs each part once, values are never stale (TFP's own
    bijectors inside included), and one `context=` reaches every part of ours.

    Args:
      bijectors: applied from last to first by `forward`.
      name: name of the bijector.

    Raises:
      TypeError: a part is no injective `tfb.Bijector`.

    Example:
      >>> chain = Chain([tfb.Shift(1.0), tfb.Scale(2.0)])
      >>> float(chain.forward(3.0))
      7.0
    """

    def __init__(self, bijectors: Sequence[tfb.Bijector], name: str = "chain"):
        parameters = dict(locals())
        bijectors = list(bijectors)
        for b in bijectors:
            if not isinstance(b, tfb.Bijector) or not b._is_injective:
                raise TypeError(f"Chain takes injective tfb.Bijector instances, got {b!r}.")
        # TFP's own chain knows all about ranks, shapes and dtypes of compositions.
        self._shapes = tfb.Chain(bijectors)
        super().__init__(
            forward_min_event_ndims=self._shapes.forward_min_event_ndims,
            inverse_min_event_ndims=self._shapes.inverse_min_event_ndims,
            is_constant_jacobian=self._shapes.is_constant_jacobian,
            parameters=parameters,
            name=name,
        )
        self._bijectors = bijectors

    _TF_MODULE_IGNORED_PROPERTIES = FlowBijector._TF_MODULE_IGNORED_PROPERTIES | {"_shapes"}

    @property
    def bijectors(self) -> list[tfb.Bijector]:
        """The parts, in the order given."""
        return list(self._bijectors)

    def _forward_and_log_det(self, x, context):
        return self._walk(reversed(self._bijectors), x, context, forward=True)

    def _inverse_and_log_det(self, y, context):
        return self._walk(self._bijectors, y, context, forward=False)

    def _walk(self, bijectors, value, context, forward: bool):
        event_ndims = self.forward_min_event_ndims if forward else self.inverse_min_event_ndims
        total = tf.zeros([], value.dtype)
        for b in bijectors:
            value, log_det, event_ndims = _step(b, value, event_ndims, context, forward)
            total += log_det
        return value, total

    def _initialize(self, y, context):
        for b in self._bijectors:
            y = b._initialize(y, context) if isinstance(b, FlowBijector) else b.inverse(y)
        return y

    def _forward_event_shape(self, shape):
        return self._shapes.forward_event_shape(shape)

    def _forward_event_shape_tensor(self, shape):
        return self._shapes.forward_event_shape_tensor(shape)

    def _inverse_event_shape(self, shape):
        return self._shapes.inverse_event_shape(shape)

    def _inverse_event_shape_tensor(self, shape):
        return self._shapes.inverse_event_shape_tensor(shape)

    def _forward_dtype(self, dtype, **kwargs):
        return self._shapes.forward_dtype(dtype)

    def _inverse_dtype(self, dtype, **kwargs):
        return self._shapes.inverse_dtype(dtype)

    def _batch_shape(self, x_event_ndims):
        return self._shapes.experimental_batch_shape(x_event_ndims=x_event_ndims)

    def _batch_shape_tensor(self, x_event_ndims):
        return self._shapes.experimental_batch_shape_tensor(x_event_ndims=x_event_ndims)

    def _describe(self):
        return ", ".join(repr(b) for b in self._bijectors)


def _step(b: tfb.Bijector, value, event_ndims: int, context, forward: bool):
    """One part's value and log-det, and the event dimensions after it."""
    if isinstance(b, FlowBijector):
        both = b.forward_and_log_det if forward else b.inverse_and_log_det
        out, log_det = both(value, event_ndims, context)
    else:
        if context is not None and any(isinstance(m, FlowBijector) for m in b.submodules):
            raise ValueError(
                f"The context does not reach what is inside TFP's {b.name}. Put its parts into "
                "this Chain, or into a Chain of their own."
            )
        value = tf.identity(value)  # a tensor that TFP's cache has not seen is never stale
        if forward:
            out = b.forward(value)
            log_det = b.forward_log_det_jacobian(value, event_ndims)
        else:
            out = b.inverse(value)
            log_det = b.inverse_log_det_jacobian(value, event_ndims)
    after = b.forward_event_ndims(event_ndims) if forward else b.inverse_event_ndims(event_ndims)
    return out, log_det, after
