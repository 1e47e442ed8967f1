"""`FlowModel`: a distribution as a Keras model."""

from tfp_flows.model.flow_model import FlowModel

__all__ = ["FlowModel"]
