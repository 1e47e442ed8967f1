"""The Keras side: knows distributions, never a family of flows."""

from tfp_flows.training.flow_model import FlowModel

__all__ = ["FlowModel"]
