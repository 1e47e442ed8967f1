"""Splines on a line or on a circle."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit
from tfp_flows.transformers.base import Transformer, as_rows
from tfp_flows.transformers.rational_quadratic import Settings, spline


class RationalQuadraticSpline(Transformer):
    r"""Monotone rational-quadratic splines.

    $$ x = f(y; \theta), \qquad \log\frac{dx}{dy} = \log f'(y; \theta) $$

    where `f` is a spline on the box `[-bound, bound]`, and the identity outside. It goes from data
    to latent, the direction of training, because its inverse costs a quadratic equation. Where the
    parameters are 0 it is the identity.

    The parameters are the logits of the bins' `bins` widths, those of their `bins` heights, and the
    slopes at the `bins - 1` knots between them, before a softplus.

    With `circular=True` entries are angles in `[-bound, bound]` whose ends are one point: the slope
    there is a parameter too, the first of the slopes, and conditioners are given all cosines and
    then all sines of the angles, so that nothing jumps at the seam. The seam itself stays where it
    is: put a `Rotation` between two layers.

    Source: Neural Spline Flows, arXiv 1906.04032; for circles Normalizing Flows on Tori and
    Spheres, arXiv 2002.02428.

    Args:
      bins: how many bins each spline has.
      bound: half the side of the box, 3 if None. Data should lie mostly inside: standardise it.
        On circles half the circumference, pi if None.
      min_bin_size: the least width and height of a bin, as a share of the box.
      min_slope: the least slope between two bins.
      circular: whether the entries are angles.

    Raises:
      ValueError: if `bins < 2`, `bound` is not finite and above 0, `min_bin_size` is not between 0
        and `1 / bins`, `min_slope` is not between 0 and 1, or `circular` is not a bool; on a call,
        if an angle is outside the circle (in graph mode `tf.errors.InvalidArgumentError`; XLA has
        no such check).

    Example:
      >>> spline = RationalQuadraticSpline(bins=4)
      >>> spline.num_params
      11
      >>> y, log_slope = spline.forward(tf.constant([1.0]), tf.zeros([11, 1]))
      >>> np.allclose(y, 1.0), np.allclose(log_slope, 0.0, atol=1e-6)
      (True, True)
    """

    def __init__(
        self,
        bins: int = 8,
        bound: float | None = None,
        min_bin_size: float = 1e-3,
        min_slope: float = 1e-3,
        circular: bool = False,
    ):
        super().__init__(dict(locals()))
        self._settings = validated(Settings(bins, bound, min_bin_size, min_slope, circular))
        self.num_params = self._settings.num_params

    @property
    def bound(self) -> float:
        """Half the side of the box, or half the circumference."""
        return self._settings.bound

    def forward(self, x, params):
        return self._evaluate(x, params, invert=True)

    def inverse(self, y, params):
        return self._evaluate(y, params, invert=False)

    def _evaluate(self, value: tf.Tensor, params: tf.Tensor, invert: bool):
        if self._settings.circular:
            value = on_circle(value, self.bound, type(self).__name__)
        results = spline(tf.reshape(value, [-1]), as_rows(params), self._settings, invert)
        return tuple(tf.reshape(r, tf.shape(value)) for r in results)

    def encode(self, x):
        if not self._settings.circular:
            return x
        angle = on_circle(x, self.bound, type(self).__name__) * (math.pi / self.bound)
        return tf.concat([tf.cos(angle), tf.sin(angle)], axis=-1)

    def _describe(self):
        domain = "a circle of" if self._settings.circular else "in"
        return f"{self._settings.bins} bins {domain} {self.bound:g}"


def validated(settings: Settings) -> Settings:
    """Returns the settings, completed; raises ValueError if they do not make a spline."""
    bins, bound, size, slope, circular = settings
    if not isinstance(circular, bool | np.bool_):
        raise ValueError(
            f"circular must be True or False, for all entries alike, got {circular!r}."
        )
    if bound is None:
        bound = math.pi if circular else 3.0
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
    return Settings(int(bins), float(bound), float(size), float(slope), bool(circular))


def on_circle(angles: tf.Tensor, bound: float, owner: str) -> tf.Tensor:
    """Returns `angles`, clipped to `[-bound, bound]`, which they may exceed by rounding alone.

    Raises:
      ValueError: if some lie outside (in graph mode `tf.errors.InvalidArgumentError`).
    """
    rounding = 8.0 * rounding_unit(angles.dtype)
    # Not ~(... <= ...): TensorFlow's optimiser turns that into >, which lets NaN pass.
    outside = tf.abs(angles) > bound * (1.0 + rounding)
    wrong = tf.math.count_nonzero(outside | tf.math.is_nan(angles))
    message = f"{owner} takes angles in [-{bound:g}, {bound:g}]: wrap them onto the circle"
    if tf.executing_eagerly():
        if wrong:
            raise ValueError(f"{message}. {int(wrong)} of {int(tf.size(angles))} lie outside.")
        return tf.clip_by_value(angles, -bound, bound)
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(wrong, 0), [message])]):
        return tf.clip_by_value(angles, -bound, bound)
