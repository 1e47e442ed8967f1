"""Keras callbacks: backups, and the health of the layers."""

from tfp_flows.callbacks.backup import BackupAndRestore
from tfp_flows.callbacks.health import FlowHealth

__all__ = ["BackupAndRestore", "FlowHealth"]
