"""A bijector the other way round."""

from __future__ import annotations

import tensorflow_probability as tfp

from tfp_flows.core import FlowBijector, private

tfb = tfp.bijectors


class Invert(FlowBijector):
    r"""Exchanges the two directions of a bijector of this package: `forward` is its `inverse`.

    $$ f = g^{-1}, \qquad \log|\det J_f(x)| = \log|\det J_{g^{-1}}(x)| $$

    As `tfb.Invert`, but a `context=` reaches what is inside.

    Args:
      bijector: a `FlowBijector`.
      name: name of the bijector.

    Raises:
      TypeError: the bijector is not of this package, so it takes no context: use `tfb.Invert`.

    Example:
      >>> from tfp_flows import bijectors as fb
      >>> inverse = fb.Invert(fb.AdditiveCoupling(lambda a: 10.0 * a))
      >>> inverse.forward([1.0, 12.0]).numpy()
      array([1., 2.], dtype=float32)
    """

    def __init__(self, bijector: FlowBijector, name: str = "invert"):
        if not isinstance(bijector, FlowBijector):
            raise TypeError(
                f"fb.Invert takes a bijector of this package, got {bijector!r}. Use tfb.Invert."
            )
        self._inverted = bijector
        super().__init__(
            forward_min_event_ndims=bijector.inverse_min_event_ndims,
            inverse_min_event_ndims=bijector.forward_min_event_ndims,
            is_constant_jacobian=bijector.is_constant_jacobian,
            parameters={"bijector": bijector, "name": name},
            name=name,
        )

    @property
    def bijectors(self) -> list[FlowBijector]:
        """What is inverted, as a list of one."""
        return [self._inverted]

    def _forward_and_log_det(self, x, context):
        return self._inverted.checked_inverse_and_log_det(x, context)

    def _inverse_and_log_det(self, y, context):
        return self._inverted.checked_forward_and_log_det(y, context)

    def _forward_event_shape(self, shape):
        return self._inverted.inverse_event_shape(shape)

    def _forward_event_shape_tensor(self, shape):
        return self._inverted.inverse_event_shape_tensor(shape)

    def _inverse_event_shape(self, shape):
        return self._inverted.forward_event_shape(shape)

    def _inverse_event_shape_tensor(self, shape):
        return self._inverted.forward_event_shape_tensor(shape)

    def _is_increasing(self, **kwargs):
        return private.is_increasing(self._inverted, **kwargs)

    def _forward_dtype(self, dtype, **kwargs):
        return self._inverted.inverse_dtype(dtype)

    def _inverse_dtype(self, dtype, **kwargs):
        return self._inverted.forward_dtype(dtype)

    def _describe(self):
        return repr(self._inverted)
