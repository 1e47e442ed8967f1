"""The Keras side: knows distributions, never a family of flows."""

from tfp_flows.training.backup import BackupAndRestore
from tfp_flows.training.flow_model import FlowModel
from tfp_flows.training.health import FlowHealth

__all__ = ["BackupAndRestore", "FlowHealth", "FlowModel"]
