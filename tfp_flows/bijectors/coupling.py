"""Coupling layers: one part of the event sets how the other part is transformed."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.masks import Parts, make_parts, mask_event_ndims
from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.bijector import reduce_log_det
from tfp_flows.core.reversible import vjp_of
from tfp_flows.transformers.affine import ScaleMap, get_scale_map


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

    def _couple(self, changed: tf.Tensor, parameters: list[tf.Tensor]):
        """Latent -> data of the transformed entries: `(value, log-scale of each, or None)`."""
        raise NotImplementedError

    def _uncouple(self, changed: tf.Tensor, parameters: list[tf.Tensor]):
        """The inverse of `_couple`, with the log-scales of the inverse."""
        raise NotImplementedError

    def _forward_and_log_det(self, x, context):
        parts, kept, changed = self._split(x)
        parameters = self._condition(parts, kept, changed, context)
        return self._merge(parts, kept, *self._couple(changed, parameters))

    def _inverse_and_log_det(self, y, context):
        parts, kept, changed = self._split(y)
        parameters = self._condition(parts, kept, changed, context)
        return self._merge(parts, kept, *self._uncouple(changed, parameters))

    def _recompute(self, out, d_out, d_log_det, event_ndims, sources, context, forward):
        """One evaluation of the conditioner serves both the inversion and the gradient."""
        there, back = self._couple, self._uncouple
        if not forward:
            there, back = back, there
        parts, kept, changed_out = self._split(out)
        with tf.GradientTape() as network_tape:
            network_tape.watch([kept, *sources])
            parameters = self._condition(parts, kept, changed_out, context)
        changed = tf.stop_gradient(back(changed_out, parameters)[0])
        with tf.GradientTape() as coupling_tape:
            coupling_tape.watch([kept, changed, *parameters])
            out, log_det = self._merge(parts, kept, *there(changed, parameters))
            log_det = reduce_log_det(log_det, out, event_ndims, self.forward_min_event_ndims)
        d_kept, d_changed, *d_parameters = vjp_of(
            coupling_tape, [out, log_det], [d_out, d_log_det], [kept, changed, *parameters]
        )
        d_conditioning, *d_sources = vjp_of(
            network_tape, parameters, d_parameters, [kept, *sources]
        )
        d_value = parts.merge(d_kept + d_conditioning, d_changed)
        return parts.merge(kept, changed), d_value, d_sources

    def _split(self, value: tf.Tensor) -> tuple[Parts, tf.Tensor, tf.Tensor]:
        """How the event is cut, what is kept, and what is transformed."""
        event = tuple(value.shape[value.shape.rank - self.forward_min_event_ndims :])
        if event[-1] is None or (self._mask_is_spatial() and None in event):
            raise ValueError(f"{self.name} needs static event dimensions, got {value.shape}.")
        parts = make_parts(self._mask, self._swap, event)
        return parts, *parts.split(value)

    def _condition(self, parts, kept, changed, context) -> list[tf.Tensor]:
        """Runs the conditioner, once."""
        width = self.widths * changed.shape[-1]
        raw = self._network(kept, self.forward_min_event_ndims, width, context)
        parameters = tf.split(raw, self.widths, axis=-1) if self.widths > 1 else [raw]
        return [parts.trim(p) for p in parameters]

    def _merge(self, parts, kept, changed, log_scale):
        """The whole event, and the log-det."""
        value = parts.merge(kept, changed)
        ndims = self.forward_min_event_ndims
        if log_scale is None:
            # Not a scalar: TFP takes a constant Jacobian for an affine map, whose mean is easy.
            return value, tf.zeros(tf.shape(value)[:-ndims], value.dtype)
        return value, tf.reduce_sum(parts.trim(log_scale), axis=list(range(-ndims, 0)))

    def _mask_is_spatial(self) -> bool:
        return np.ndim(self._mask) > 1 or (
            isinstance(self._mask, str) and self._mask == "checkerboard"
        )

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

    def _couple(self, changed, parameters):
        return changed + parameters[0], None

    def _uncouple(self, changed, parameters):
        return changed - parameters[0], None


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

    def _couple(self, changed, parameters):
        shift, raw = parameters
        log_scale = self._scale_map(raw)
        return changed * tf.exp(log_scale) + shift, log_scale

    def _uncouple(self, changed, parameters):
        shift, raw = parameters
        log_scale = self._scale_map(raw)
        return (changed - shift) * tf.exp(-log_scale), -log_scale

    def _describe(self):
        return f"{super()._describe()}, {getattr(self._scale_map, '__name__', self._scale_map)}"
