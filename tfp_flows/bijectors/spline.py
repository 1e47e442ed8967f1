"""Coupling layers with splines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.circle import on_circle
from tfp_flows.bijectors.coupling import _Coupling
from tfp_flows.transformers.spline import Settings, spline


class SplineCoupling(_Coupling):
    r"""Bends one part of the event by monotone splines that the other part chooses.

    $$ y_a = x_a, \qquad y_b = f^{-1}(x_b; \theta(x_a)), \qquad
       \log|\det J| = -\textstyle\sum \log f'(y_b; \theta(x_a)) $$

    where each `f` is a rational-quadratic spline on the box `[-bound, bound]`, and the identity
    outside. It goes from data to latent, the way training goes, because its inverse costs a
    quadratic equation. Where the conditioner gives zeros it is the identity.

    With `circular=True` all entries are angles in `[-bound, bound]`, and both ends are one point:
    the slope there is a parameter too, and the conditioner is given the cosines and then the sines
    of the kept angles, so that nothing jumps at the seam (which stays where it is: rotate between
    two layers, see `Rotation`).

    Source: Neural Spline Flows, arXiv 1906.04032; for circles Normalizing Flows on Tori and
    Spheres, arXiv 2002.02428.

    Args:
      conditioner: as for `AdditiveCoupling`, `[..., n_kept] -> [..., n * (3 * bins - 1)]` for `n`
        transformed entries in the last dimension. Its output is read as
        `[..., n, 3 * bins - 1]`: for each entry in turn the logits of the bins' `bins` widths,
        those of their `bins` heights, and the `bins - 1` raw slopes between them. On circles
        `[..., 2 * n_kept] -> [..., n * 3 * bins]`, where the first slope is that of the seam.
      mask: see `AdditiveCoupling`.
      swap: exchange the kept and the transformed part.
      bins: how many bins each spline has.
      bound: half the side of the box, 3 if None. Data should lie mostly inside: standardise it.
        On circles half the circumference, pi if None.
      event_ndims: see `AdditiveCoupling`.
      min_bin_size: the least width and height of a bin, as a share of the box.
      min_slope: the least slope between two bins.
      circular: whether the entries are angles.
      name: name of the bijector.

    Raises:
      ValueError: as for `AdditiveCoupling`; or a number that makes no spline; or a `circular` that
        is not a bool; or an angle outside the circle (in graph mode:
        `tf.errors.InvalidArgumentError`; XLA leaves that check out).

    Example:
      >>> coupling = SplineCoupling(lambda a: tf.zeros([*a.shape[:-1], 1 * (3 * 4 - 1)]), bins=4)
      >>> y, log_det = coupling.forward_and_log_det(tf.constant([[1.0, 2.0]]))
      >>> bool(tf.reduce_all(tf.abs(y - [[1.0, 2.0]]) < 1e-5))
      True
    """

    def __init__(
        self,
        conditioner: Any,
        mask: str | np.ndarray = "half",
        swap: bool = False,
        bins: int = 8,
        bound: float | None = None,
        event_ndims: int | None = None,
        min_bin_size: float = 1e-3,
        min_slope: float = 1e-3,
        circular: bool = False,
        name: str = "spline_coupling",
    ):
        parameters = dict(locals())
        if bound is None:
            bound = math.pi if is_circular(circular) else 3.0
        self._settings = checked_settings(Settings(bins, bound, min_bin_size, min_slope, circular))
        super().__init__(conditioner, mask, swap, event_ndims, parameters, name)

    def _couple(self, changed, parameters):
        return self._spline(changed, parameters, invert=True)

    def _uncouple(self, changed, parameters):
        return self._spline(changed, parameters, invert=False)

    def _spline(self, changed, parameters, invert: bool):
        (raw,) = parameters
        if self._settings.circular:
            changed = on_circle(changed, self._settings.bound, self.name)
        raw = tf.reshape(raw, tf.concat([tf.shape(changed), [self._settings.numbers]], 0))
        return spline(changed, raw, self._settings, invert)

    def _condition(self, parts, kept, changed, context):
        # Kept entries need no zeros here: what becomes of them is dropped when merging.
        width = self._settings.numbers * changed.shape[-1]
        if self._settings.circular:
            kept = on_circle(kept, self._settings.bound, self.name)
            angle = kept * (math.pi / self._settings.bound)
            kept = tf.concat([tf.cos(angle), tf.sin(angle)], axis=-1)
        return [self._network(kept, self.forward_min_event_ndims, width, context)]

    def _describe(self):
        place = "a circle of" if self._settings.circular else "in"
        return f"{super()._describe()}, {self._settings.bins} bins {place} {self._settings.bound:g}"


def is_circular(circular: bool) -> bool:
    """Returns the flag; raises ValueError for anything but one bool."""
    if not isinstance(circular, bool | np.bool_):
        raise ValueError(
            f"circular must be True or False, for all entries alike, got {circular!r}."
        )
    return bool(circular)


def checked_settings(settings: Settings) -> Settings:
    """Returns the settings; raises ValueError for numbers that make no spline."""
    bins, bound, size, slope, circular = settings
    if not isinstance(bins, int | np.integer) or bins < 2:
        raise ValueError(f"bins must be a whole number of 2 or more, got {bins!r}.")
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(
            f"bound must be finite and above 0, got {bound!r}: the splines live in "
            "[-bound, bound]. For standardised data 3 to 5 will do."
        )
    if not 0 < size < 1 / bins:
        raise ValueError(
            f"min_bin_size must lie between 0 and 1 / bins, got {size!r} for {bins} bins: they "
            f"must fit into the box. Give less than {1 / bins:g}, or fewer bins."
        )
    if not 0 < slope < 1:
        raise ValueError(
            f"min_slope must lie between 0 and 1, the slope outside the box, got {slope!r}."
        )
    return Settings(int(bins), float(bound), float(size), float(slope), is_circular(circular))
