"""Increasing element-wise maps that couplings and autoregressive bijectors apply."""

from tfp_flows.transformers.affine import Additive, Affine
from tfp_flows.transformers.base import Transformer
from tfp_flows.transformers.mixture import LogisticMixtureCDF
from tfp_flows.transformers.spline import RationalQuadraticSpline

__all__ = [
    "Additive",
    "Affine",
    "LogisticMixtureCDF",
    "RationalQuadraticSpline",
    "Transformer",
]
