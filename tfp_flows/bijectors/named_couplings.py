"""The couplings of the literature: `Coupling` with one transformer each."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfp_flows.bijectors.coupling import Coupling
from tfp_flows.transformers import Additive, Affine, LogisticMixtureCDF, RationalQuadraticSpline
from tfp_flows.transformers.affine import ScaleMap


class AdditiveCoupling(Coupling):
    r"""Shifts one part of the event by a function of the other; volume is preserved.

    $$ y_a = x_a, \qquad y_b = x_b + t(x_a), \qquad \log|\det J| = 0 $$

    A `Coupling` with `transformers.Additive`.

    Source: NICE: Non-linear Independent Components Estimation, arXiv 1410.8516.

    Args:
      conditioner: network from the identity part to `t`, with as many entries in its last
        dimension as the transformed part has; see `Coupling` for what it is given.
      mask: `"half"`, `"alternate"`, `"channel"`, `"checkerboard"`, or a boolean array, True for the
        identity part.
      swap: exchange the identity part and the transformed part.
      event_ndims: rank of an event, where the mask's own (1, or 3 for images) is too small.
      name: name of the bijector.

    Raises:
      ValueError: if the mask or the conditioner's output does not fit the event.

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
        super().__init__(conditioner, Additive(), mask, swap, event_ndims, name, parameters)


class AffineCoupling(Coupling):
    r"""Scales and shifts one part of the event by functions of the other.

    $$ y_a = x_a, \qquad y_b = x_b \odot e^{s(x_a)} + t(x_a), \qquad
       \log|\det J| = \textstyle\sum s(x_a) $$

    A `Coupling` with `transformers.Affine`.

    Source: Density estimation using Real NVP, arXiv 1605.08803; the scale maps also from Glow,
    arXiv 1807.03039.

    Args:
      conditioner: network from the identity part, `[..., m]`, to the parameters of `n` transformed
        entries, `[..., 2 * n]`: first all shifts `t`, then what the scale map makes `s` of; see
        `Coupling` for what it is given.
      mask: `"half"`, `"alternate"`, `"channel"`, `"checkerboard"`, or a boolean array, True for the
        identity part.
      swap: exchange the identity part and the transformed part.
      scale_map: from a parameter to `s`: `"exp_tanh"`, `"sigmoid"`, `"clamp"`, `"softplus"`, or
        your own function (register it with Keras to save whole models).
      event_ndims: rank of an event, where the mask's own (1, or 3 for images) is too small.
      name: name of the bijector.

    Raises:
      ValueError: if the mask or the conditioner's output does not fit the event, or `scale_map` is
        not a known name.

    Example:
      >>> from tfp_flows.conditioners import mlp
      >>> coupling = AffineCoupling(mlp(2, 2 * 2))  # starts as the identity
      >>> coupling.forward([[1.0, 2.0, 3.0, 4.0]]).numpy()
      array([[1., 2., 3., 4.]], dtype=float32)
    """

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
        super().__init__(conditioner, Affine(scale_map), mask, swap, event_ndims, name, parameters)


class SplineCoupling(Coupling):
    r"""Transforms one part of the event by monotone splines parameterised by the other.

    $$ y_a = x_a, \qquad y_b = f^{-1}(x_b; \theta(x_a)), \qquad
       \log|\det J| = -\textstyle\sum \log f'(y_b; \theta(x_a)) $$

    where each `f` is a rational-quadratic spline on the box `[-bound, bound]`, and the identity
    outside, or on a circle. A `Coupling` with `transformers.RationalQuadraticSpline`.

    Source: Neural Spline Flows, arXiv 1906.04032; for circles Normalizing Flows on Tori and
    Spheres, arXiv 2002.02428.

    Args:
      conditioner: network from the identity part, `[..., m]`, to the parameters of `n` transformed
        entries, `[..., (3 * bins - 1) * n]`; on circles from the cosines and sines of the identity
        part, `[..., 2 * m]`, to `[..., 3 * bins * n]`. See `RationalQuadraticSpline` for what the
        parameters are, and `Coupling` for their order.
      mask: `"half"`, `"alternate"`, `"channel"`, `"checkerboard"`, or a boolean array, True for the
        identity part.
      swap: exchange the identity part and the transformed part.
      bins: how many bins each spline has.
      bound: half the side of the box, 3 if None. Data should lie mostly inside: standardise it.
        On circles half the circumference, pi if None.
      event_ndims: rank of an event, where the mask's own (1, or 3 for images) is too small.
      min_bin_size: the least width and height of a bin, as a share of the box.
      min_slope: the least slope between two bins.
      circular: whether all entries are angles in `[-bound, bound]`, with both ends one point.
      name: name of the bijector.

    Raises:
      ValueError: if the mask or the conditioner's output does not fit the event, an argument does
        not make a spline, or an angle is outside the circle (in graph mode
        `tf.errors.InvalidArgumentError`; XLA has no such check).

    Example:
      >>> from tfp_flows.conditioners import mlp
      >>> coupling = SplineCoupling(mlp(2, (3 * 4 - 1) * 2), bins=4)  # starts as the identity
      >>> np.allclose(coupling.forward([[1.0, 2.0, 3.0, 4.0]]), [[1.0, 2.0, 3.0, 4.0]])
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
        spline = RationalQuadraticSpline(bins, bound, min_bin_size, min_slope, circular)
        super().__init__(conditioner, spline, mask, swap, event_ndims, name, parameters)


class MixtureCDFCoupling(Coupling):
    r"""Transforms one part of the event by CDFs of mixtures parameterised by the other.

    From data `y` to latent `x`, the direction of training, it is in closed form:

    $$ x_a = y_a, \qquad x_b = \operatorname{logit}\Big(\textstyle\sum_k \pi_k(y_a)\,
       \sigma\Big(\frac{y_b - \mu_k(y_a)}{s_k(y_a)}\Big)\Big) \odot e^{a(y_a)} + b(y_a) $$

    The other direction searches for roots, with a gradient of first order; `fb.Invert` exchanges
    the two directions. A `Coupling` with `transformers.LogisticMixtureCDF`.

    Source: Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv 1902.00275, section 3.2.

    Args:
      conditioner: network from the identity part, `[..., m]`, to the parameters of `n` transformed
        entries, `[..., (3 * components + 2) * n]`. See `LogisticMixtureCDF` for what the parameters
        are, and `Coupling` for their order.
      mask: `"half"`, `"alternate"`, `"channel"`, `"checkerboard"`, or a boolean array, True for the
        identity part.
      swap: exchange the identity part and the transformed part.
      components: how many logistic distributions each mixture has.
      event_ndims: rank of an event, where the mask's own (1, or 3 for images) is too small.
      name: name of the bijector.

    Raises:
      ValueError: if the mask or the conditioner's output does not fit the event, or
        `components < 1`.
      tf.errors.InvalidArgumentError: from `forward`, if the search does not end.

    Example:
      >>> from tfp_flows.conditioners import mlp
      >>> coupling = MixtureCDFCoupling(mlp(1, 3 * 4 + 2), components=4)
      >>> np.allclose(coupling.inverse([[1.0, 2.0]]), [[1.0, 2.0]], atol=0.3)  # nearly the identity
      True
    """

    def __init__(
        self,
        conditioner: Any,
        mask: str | np.ndarray = "half",
        swap: bool = False,
        components: int = 8,
        event_ndims: int | None = None,
        name: str = "mixture_cdf_coupling",
    ):
        parameters = dict(locals())
        mixture = LogisticMixtureCDF(components)
        super().__init__(conditioner, mixture, mask, swap, event_ndims, name, parameters)
