"""What a flow needs around it: the distribution itself, contexts, and integer pixels."""

from tfp_flows.distributions.conditioned import Conditioned
from tfp_flows.distributions.dequantized import Dequantized
from tfp_flows.distributions.flow import Flow

__all__ = ["Conditioned", "Dequantized", "Flow"]
