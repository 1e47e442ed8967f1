"""Ready-made flows; each returns a `tfd.TransformedDistribution`."""

from tfp_flows.flows.autoregressive import iaf, maf
from tfp_flows.flows.ffjord import ffjord
from tfp_flows.flows.glow import glow
from tfp_flows.flows.labels import with_labels
from tfp_flows.flows.neural_spline import neural_spline
from tfp_flows.flows.nice import nice
from tfp_flows.flows.real_nvp import real_nvp
from tfp_flows.flows.residual import residual

__all__ = [
    "ffjord",
    "glow",
    "iaf",
    "maf",
    "neural_spline",
    "nice",
    "real_nvp",
    "residual",
    "with_labels",
]
