"""Distributions: flows, flows given a context, and integer pixels."""

from tfp_flows.distributions.conditioned import Conditioned
from tfp_flows.distributions.dequantized import Dequantized
from tfp_flows.distributions.flow import Flow

__all__ = ["Conditioned", "Dequantized", "Flow"]
