"""Coupling layers: one part of the event parameterises how the other part is transformed."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.masks import Parts, make_parts, mask_event_ndims
from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.bijector import reduce_log_det
from tfp_flows.core.reversible import vjp_of
from tfp_flows.transformers import Transformer
from tfp_flows.transformers.affine import get_transformer
from tfp_flows.transformers.base import split_params


class Coupling(FlowBijector):
    r"""Transforms one part of the event with parameters computed from the other part.

    $$ y_a = x_a, \qquad y_b = f(x_b; \theta(x_a)), \qquad
       \log|\det J| = \textstyle\sum \log f'(x_b; \theta(x_a)) $$

    The identity part `a` passes as it is; `f` is a transformer, applied to each entry of the
    transformed part `b`. The mask says which entries belong to which part.

    Source: Density estimation using Real NVP, arXiv 1605.08803.

    Args:
      conditioner: a Keras layer, `tf.Module` or function from the identity part to the parameters
        of the `n` transformed entries in the last dimension, `[..., m] -> [..., num_params * n]`:
        the first parameter of all entries, then the second of all entries, and so on. With a mask
        of the last axis it is given the `m` identity entries alone; with a checkerboard or another
        spatial mask the whole event, with zeros at the transformed entries, and it returns
        parameters for the whole event. A context is its second argument.
      transformer: the element-wise map; `Affine()` if None.
      mask: `"half"`, `"alternate"` (last axis), `"channel"`, `"checkerboard"` (images `[h, w,
        c]`), or a boolean array, True for the identity part.
      swap: exchange the two parts.
      event_ndims: rank of an event, where the mask's own (1; 3 for the image masks; the
        array's) is too small, as for `mask="half"` on images.
      name: name of the bijector.
      parameters: of subclasses, their constructor's arguments.

    Raises:
      TypeError: if `transformer` is not a `Transformer`.
      ValueError: if the mask does not fit the event (an odd size for `"half"`); or, on the first
        call, if the conditioner's output has the wrong width.

    Example:
      >>> from tfp_flows.transformers import LogisticMixtureCDF
      >>> coupling = Coupling(lambda a: tf.repeat(a, 14, axis=-1), LogisticMixtureCDF(4))
      >>> y = coupling.forward([[1.0, 2.0]])
      >>> np.allclose(coupling.inverse(tf.identity(y)), [[1.0, 2.0]], atol=1e-5)
      True
    """

    def __init__(
        self,
        conditioner: Any,
        transformer: Transformer | None = None,
        mask: str | np.ndarray = "half",
        swap: bool = False,
        event_ndims: int | None = None,
        name: str = "coupling",
        parameters: dict[str, Any] | None = None,
    ):
        parameters = dict(locals()) if parameters is None else parameters
        if not isinstance(mask, str):
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.ndim == 0:
                raise ValueError(
                    f"mask must be a boolean array (True for the identity part) or a name, got "
                    f"dtype {mask.dtype} and shape {mask.shape}."
                )
        least = mask_event_ndims(mask)
        event_ndims = least if event_ndims is None else int(event_ndims)
        if event_ndims < least:
            raise ValueError(
                f"mask {mask!r} needs event_ndims of {least} or more, got {event_ndims}."
            )
        super().__init__(forward_min_event_ndims=event_ndims, parameters=parameters, name=name)
        self._mask = mask
        self._is_spatial = mask == "checkerboard" if isinstance(mask, str) else mask.ndim > 1
        self._swap = bool(swap)
        self._transformer = get_transformer(transformer)
        self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as it was given."""
        return self._network.net

    def _forward_and_log_det(self, x, context):
        parts, identity, transformed = self._split(x)
        params = self._condition(identity, transformed, context)
        return self._merge(parts, identity, *self._transformer.forward(transformed, params))

    def _inverse_and_log_det(self, y, context):
        parts, identity, transformed = self._split(y)
        params = self._condition(identity, transformed, context)
        return self._merge(parts, identity, *self._transformer.inverse(transformed, params))

    def _recompute(self, out, d_out, d_log_det, event_ndims, sources, context, forward):
        """One evaluation of the conditioner serves both the inversion and the gradient."""
        there, back = self._transformer.forward, self._transformer.inverse
        if not forward:
            there, back = back, there
        parts, identity, transformed_out = self._split(out)
        with tf.GradientTape() as network_tape:
            network_tape.watch([identity, *sources])
            params = self._condition(identity, transformed_out, context)
        transformed = tf.stop_gradient(back(transformed_out, params)[0])
        with tf.GradientTape() as transformer_tape:
            transformer_tape.watch([transformed, identity, params])
            out, log_det = self._merge(parts, identity, *there(transformed, params))
            log_det = reduce_log_det(log_det, out, event_ndims, self.forward_min_event_ndims)
        d_identity, d_transformed, d_params = vjp_of(
            transformer_tape, [out, log_det], [d_out, d_log_det], [identity, transformed, params]
        )
        d_inputs, *d_sources = vjp_of(network_tape, [params], [d_params], [identity, *sources])
        d_value = parts.merge(d_identity + d_inputs, d_transformed)
        return parts.merge(identity, transformed), d_value, d_sources

    def diagnostics(self, y: tf.Tensor, context: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """What the transformer's parameters for the data `y` show; see `Affine`."""
        parts, identity, transformed = self._split(y)
        params = self._condition(identity, transformed, context)
        return self._transformer.diagnostics(params, parts.trim(tf.ones_like(transformed)))

    def _split(self, value: tf.Tensor) -> tuple[Parts, tf.Tensor, tf.Tensor]:
        """How the event is cut, its identity part, and its transformed part."""
        event = tuple(value.shape[value.shape.rank - self.forward_min_event_ndims :])
        if event[-1] is None or (self._is_spatial and None in event):
            raise ValueError(f"{self.name} needs static event dimensions, got {value.shape}.")
        parts = make_parts(self._mask, self._swap, event)
        return parts, *parts.split(value)

    def _condition(self, identity: tf.Tensor, transformed: tf.Tensor, context) -> tf.Tensor:
        """Runs the conditioner, once: the parameters `[..., num_params, n]`."""
        num_params, n = self._transformer.num_params, transformed.shape[-1]
        inputs = self._transformer.encode(identity)
        output = self._network(inputs, self.forward_min_event_ndims, num_params * n, context)
        return split_params(output, num_params, n)

    def _merge(
        self, parts: Parts, identity: tf.Tensor, transformed: tf.Tensor, log_slope: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The whole event, and the log-det."""
        axes = list(range(-self.forward_min_event_ndims, 0))
        return parts.merge(identity, transformed), tf.reduce_sum(parts.trim(log_slope), axis=axes)

    def _describe(self):
        mask = self._mask if isinstance(self._mask, str) else f"bool{list(self._mask.shape)}"
        swap = ", swap" if self._swap else ""
        return f"{mask}{swap}, {self._network!r}, {self._transformer!r}"
