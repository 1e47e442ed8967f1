"""The bijector of a conditional flow with its context filled in."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfp_flows.core import FlowBijector


class Given(FlowBijector):
    """`bijector` with a context that each call asks for, so that it is never outdated.

    Args:
      bijector: takes a `context=`.
      with_features: `(value, event_ndims) -> (value, features)` of one common batch shape.
      owner: holds the variables that `with_features` reads.
      name: name of the bijector.
    """

    def __init__(
        self,
        bijector: FlowBijector,
        with_features: Callable[[tf.Tensor, int], tuple[tf.Tensor, tf.Tensor]],
        owner: tf.Module,
        name: str = "given_context",
    ):
        parameters = dict(locals())
        self._given, self._owner = bijector, owner
        self._with_features = self._no_dependency(with_features)
        super().__init__(
            forward_min_event_ndims=bijector.forward_min_event_ndims,
            inverse_min_event_ndims=bijector.inverse_min_event_ndims,
            is_constant_jacobian=bijector.is_constant_jacobian,
            parameters=parameters,
            name=name,
        )

    def _forward_and_log_det(self, x, context):
        x, features = self._with_features(x, self.forward_min_event_ndims)
        return self._given.checked_forward_and_log_det(x, features)

    def _inverse_and_log_det(self, y, context):
        y, features = self._with_features(y, self.inverse_min_event_ndims)
        return self._given.checked_inverse_and_log_det(y, features)

    def _forward_event_shape(self, shape):
        return self._given.forward_event_shape(shape)

    def _forward_event_shape_tensor(self, shape):
        return self._given.forward_event_shape_tensor(shape)

    def _inverse_event_shape(self, shape):
        return self._given.inverse_event_shape(shape)

    def _inverse_event_shape_tensor(self, shape):
        return self._given.inverse_event_shape_tensor(shape)

    def _describe(self):
        return repr(self._given)
