"""A bijector with its two directions exchanged."""

from __future__ import annotations

import tensorflow_probability as tfp

from tfp_flows.core import FlowBijector, private
from tfp_flows.core.delegating import Delegating

tfb = tfp.bijectors


class Invert(Delegating):
    r"""Exchanges the two directions of a bijector of this package: `forward` is its `inverse`.

    $$ f = g^{-1}, \qquad \log|\det J_f(x)| = \log|\det J_{g^{-1}}(x)| $$

    As `tfb.Invert`, but a `context=` reaches what is inside.

    Args:
      bijector: a `FlowBijector`.
      name: name of the bijector.

    Raises:
      TypeError: if the bijector is not of this package, and so takes no context: use `tfb.Invert`.

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
        parameters = {"bijector": bijector, "name": name}
        super().__init__(shapes=tfb.Invert(bijector), parameters=parameters, name=name)
        self._inverted = bijector

    @property
    def bijectors(self) -> list[FlowBijector]:
        """What is inverted, as a list of one."""
        return [self._inverted]

    def _forward_and_log_det(self, x, context):
        return self._inverted.inverse_and_log_det(x, context=context)

    def _inverse_and_log_det(self, y, context):
        return self._inverted.forward_and_log_det(y, context=context)

    def _is_increasing(self, **kwargs):
        return private.is_increasing(self._inverted, **kwargs)

    def _describe(self):
        return repr(self._inverted)
