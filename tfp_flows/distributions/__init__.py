"""What a flow needs around it: the distribution itself, and integer pixels."""

from tfp_flows.distributions.dequantized import Dequantized
from tfp_flows.distributions.flow import Flow

__all__ = ["Dequantized", "Flow"]
