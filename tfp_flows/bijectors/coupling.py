"""Coupling layers: one part of the event sets how the other part is transformed."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.masks import Parts, make_parts, mask_event_ndims
from tfp_flows.bijectors.scale_maps import ScaleMap, get_scale_map
from tfp_flows.core import FlowBijector, Network


class _Coupling(FlowBijector):
    """What all couplings share: the mask, the network, and the way of the two parts."""

    widths = 1  # parameters per transformed entry

    def __init__(self, conditioner, mask, swap, event_ndims, parameters, name):
        if not isinstance(mask, str):
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.ndim == 0:
                raise ValueError(
                    f"mask must be a boolean array (True where the event is kept) or a name, got "
                    f"dtype {mask.dtype} and shape {mask.shape}."
                )
        least = mask_event_ndims(mask)
        event_ndims = least if event_ndims is None else int(event_ndims)
        if event_ndims < least:
            raise ValueError(
                f"mask {mask!r} needs event_ndims of {least} or more, got {event_ndims}."
            )
        super().__init__(
            forward_min_event_ndims=event_ndims,
            parameters=parameters,
            name=name,
        )
        self._mask = mask
        self._swap = bool(swap)
        self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as it was given."""
        return self._network.net

    def _parameters_of(self, value: tf.Tensor, context) -> tuple[Parts, tf.Tensor, tf.Tensor, list]:
        """Splits `value`, and runs the conditioner on the kept part, once."""
        event = tuple(value.shape[value.shape.rank - self.forward_min_event_ndims :])
        if event[-1] is None or (self._mask_is_spatial() and None in event):
            raise ValueError(f"{self.name} needs static event dimensions, got {value.shape}.")
        parts = make_parts(self._mask, self._swap, event)
        kept, changed = parts.split(value)
        width = self.widths * changed.shape[-1]
        raw = self._network(kept, self.forward_min_event_ndims, width, context)
        parameters = tf.split(raw, self.widths, axis=-1) if self.widths > 1 else [raw]
        return parts, kept, changed, [parts.trim(p) for p in parameters]

    def _mask_is_spatial(self) -> bool:
        return np.ndim(self._mask) > 1 or (
            isinstance(self._mask, str) and self._mask == "checkerboard"
        )

    def _sum(self, log_scale: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(log_scale, axis=list(range(-self.forward_min_event_ndims, 0)))

    def _describe(self):
        mask = self._mask if isinstance(self._mask, str) else f"bool{list(self._mask.shape)}"
        return f"{mask}{', swap' if self._swap else ''}, {self._network!r}"


class AdditiveCoupling(_Coupling):
    r"""Shifts one part of the event by a function of the other; volume is preserved.

    $$ y_a = x_a, \qquad y_b = x_b + t(x_a), \qquad \log|\det J| = 0 $$

    Source: NICE: Non-linear Independent Components Estimation, arXiv 1410.8516.

    Args:
      conditioner: a Keras layer, `tf.Module` or function that maps the kept part to `t`, with
        as many entries in its last dimension as the transformed part has. With a mask along
        the last axis it is given the kept entries alone, `[..., n_kept]`; with a checkerboard or
        another spatial mask the whole event, zero where it is transformed.
      mask: `"half"`, `"alternate"` (last axis), `"channel"`, `"checkerboard"` (images `[h, w,
        c]`), or a boolean array, True where the event is kept.
      swap: exchange the kept and the transformed part.
      event_ndims: rank of an event, where the mask's own (1; 3 for the image masks; the
        array's) is too small, as for `mask="half"` on images.
      name: name of the bijector.

    Raises:
      ValueError: the mask does not fit (odd sizes for `"half"`), or on the first call, the
        conditioner's output has the wrong width.

    Example:
      >>> coupling = AdditiveCoupling(lambda a: 10.0 * a)
      >>> coupling.forward([1.0, 2.0]).numpy()
      array([ 1., 12.], dtype=float32)
    """

    def __init__(
        self,
        conditioner: Any,
        mask: str | np.ndarray = "half",
        swap: bool = False,
        event_ndims: int | None = None,
        name: str = "additive_coupling",
    ):
        parameters = dict(locals())
        super().__init__(conditioner, mask, swap, event_ndims, parameters, name)

    def _forward_and_log_det(self, x, context):
        parts, kept, changed, (shift,) = self._parameters_of(x, context)
        return parts.merge(kept, changed + shift), self._zero(x)

    def _inverse_and_log_det(self, y, context):
        parts, kept, changed, (shift,) = self._parameters_of(y, context)
        return parts.merge(kept, changed - shift), self._zero(y)

    def _zero(self, value):
        # Not a scalar: TFP takes a constant Jacobian for an affine map, whose mean is easy.
        return tf.zeros(tf.shape(value)[: -self.forward_min_event_ndims], value.dtype)


class AffineCoupling(_Coupling):
    r"""Scales and shifts one part of the event by functions of the other.

    $$ y_a = x_a, \qquad y_b = x_b \odot e^{s(x_a)} + t(x_a), \qquad
       \log|\det J| = \textstyle\sum s(x_a) $$

    Source: Density estimation using Real NVP, arXiv 1605.08803; the scale maps also from Glow,
    arXiv 1807.03039.

    Args:
      conditioner: as for `AdditiveCoupling`, with twice the width: first all shifts `t`, then
        all raw scales.
      mask: see `AdditiveCoupling`.
      swap: exchange the kept and the transformed part.
      scale_map: raw scale -> `s`: `"exp_tanh"`, `"sigmoid"`, `"clamp"`, `"softplus"`, or a
        function of your own (register it with Keras to save whole models).
      event_ndims: see `AdditiveCoupling`.
      name: name of the bijector.

    Raises:
      ValueError: as for `AdditiveCoupling`; or an unknown scale map.

    Example:
      >>> coupling = AffineCoupling(lambda a: tf.concat([a, 0.0 * a], -1))
      >>> y, log_det = coupling.forward_and_log_det(tf.constant([1.0, 2.0]))
      >>> y.numpy(), float(log_det)
      (array([1., 3.], dtype=float32), 0.0)
    """

    widths = 2

    def __init__(
        self,
        conditioner: Any,
        mask: str | np.ndarray = "half",
        swap: bool = False,
        scale_map: str | ScaleMap = "exp_tanh",
        event_ndims: int | None = None,
        name: str = "affine_coupling",
    ):
        parameters = dict(locals())
        self._scale_map = get_scale_map(scale_map)
        super().__init__(conditioner, mask, swap, event_ndims, parameters, name)

    def _forward_and_log_det(self, x, context):
        parts, kept, changed, (shift, raw) = self._parameters_of(x, context)
        log_scale = parts.trim(self._scale_map(raw))
        return parts.merge(kept, changed * tf.exp(log_scale) + shift), self._sum(log_scale)

    def _inverse_and_log_det(self, y, context):
        parts, kept, changed, (shift, raw) = self._parameters_of(y, context)
        log_scale = parts.trim(self._scale_map(raw))
        return parts.merge(kept, (changed - shift) * tf.exp(-log_scale)), -self._sum(log_scale)

    def _describe(self):
        return f"{super()._describe()}, {getattr(self._scale_map, '__name__', self._scale_map)}"
