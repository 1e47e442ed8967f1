"""Ready-made flows: functions that return a `Flow`, a `tfd.TransformedDistribution`."""

from tfp_flows.flows.autoregressive import iaf, maf
from tfp_flows.flows.base import with_labels
from tfp_flows.flows.dequantizer import dequantizer
from tfp_flows.flows.flow_plus_plus import flow_plus_plus
from tfp_flows.flows.free_form import ffjord, residual
from tfp_flows.flows.glow import glow
from tfp_flows.flows.neural_spline import neural_spline
from tfp_flows.flows.real_nvp import nice, real_nvp
from tfp_flows.flows.variational import planar, radial, sylvester

__all__ = [
    "dequantizer",
    "ffjord",
    "flow_plus_plus",
    "glow",
    "iaf",
    "maf",
    "neural_spline",
    "nice",
    "planar",
    "radial",
    "real_nvp",
    "residual",
    "sylvester",
    "with_labels",
]
