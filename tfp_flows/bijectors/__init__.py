"""What transforms: every class is a `tfb.Bijector`; `forward` goes from latent to data."""

from tfp_flows.bijectors.actnorm import ActNorm
from tfp_flows.bijectors.autoregressive import MaskedAutoregressive, SplineAutoregressive
from tfp_flows.bijectors.batch_norm import BatchNorm
from tfp_flows.bijectors.chain import Chain
from tfp_flows.bijectors.context_affine import ContextAffine
from tfp_flows.bijectors.continuous import ContinuousFlow
from tfp_flows.bijectors.conv1x1 import Invertible1x1Conv
from tfp_flows.bijectors.coupling import Coupling
from tfp_flows.bijectors.invert import Invert
from tfp_flows.bijectors.linear import Householder, QRLinear
from tfp_flows.bijectors.logit import Logit
from tfp_flows.bijectors.multiscale import MultiScale
from tfp_flows.bijectors.named_couplings import (
    AdditiveCoupling,
    AffineCoupling,
    MixtureCDFCoupling,
    SplineCoupling,
)
from tfp_flows.bijectors.planar import Planar, Radial
from tfp_flows.bijectors.repeat import Repeat
from tfp_flows.bijectors.residual import Residual
from tfp_flows.bijectors.rotation import Rotation
from tfp_flows.bijectors.squeeze import Squeeze
from tfp_flows.bijectors.standardize import Standardize
from tfp_flows.bijectors.sylvester import Sylvester

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "BatchNorm",
    "Chain",
    "ContextAffine",
    "ContinuousFlow",
    "Coupling",
    "Householder",
    "Invert",
    "Invertible1x1Conv",
    "Logit",
    "MaskedAutoregressive",
    "MixtureCDFCoupling",
    "MultiScale",
    "Planar",
    "QRLinear",
    "Radial",
    "Repeat",
    "Residual",
    "Rotation",
    "SplineAutoregressive",
    "SplineCoupling",
    "Squeeze",
    "Standardize",
    "Sylvester",
]
