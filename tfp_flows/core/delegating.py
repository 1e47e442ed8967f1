"""Bijectors whose shapes are those of a bijector of TFP."""

from __future__ import annotations

from typing import Any

import tensorflow_probability as tfp

from tfp_flows.core.bijector import FlowBijector

tfb = tfp.bijectors


class Delegating(FlowBijector):
    """A `FlowBijector` with the ranks, shapes and dtypes of a bijector of TFP.

    Args:
      shapes: that bijector; it is never evaluated.
      parameters, name: as for `FlowBijector`.
      is_constant_jacobian: as for `FlowBijector`; None: as that bijector.
    """

    _TF_MODULE_IGNORED_PROPERTIES = FlowBijector._TF_MODULE_IGNORED_PROPERTIES | {"_shapes"}

    def __init__(
        self,
        *,
        shapes: tfb.Bijector,
        parameters: dict[str, Any],
        name: str,
        is_constant_jacobian: bool | None = None,
    ):
        if is_constant_jacobian is None:
            is_constant_jacobian = shapes.is_constant_jacobian
        super().__init__(
            forward_min_event_ndims=shapes.forward_min_event_ndims,
            inverse_min_event_ndims=shapes.inverse_min_event_ndims,
            is_constant_jacobian=is_constant_jacobian,
            parameters=parameters,
            name=name,
        )
        self._shapes = shapes

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
