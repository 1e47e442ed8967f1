"""Ready-made flows; each returns a `tfd.TransformedDistribution`."""

from tfp_flows.flows.glow import glow
from tfp_flows.flows.nice import nice
from tfp_flows.flows.real_nvp import real_nvp

__all__ = ["glow", "nice", "real_nvp"]
