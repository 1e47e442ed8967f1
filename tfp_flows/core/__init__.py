"""The protocol that every bijector of this package follows."""

from tfp_flows.core.network import Network
from tfp_flows.core.protocol import FlowBijector
from tfp_flows.core.variables import UntrackedVariableError, variable_paths

__all__ = ["FlowBijector", "Network", "UntrackedVariableError", "variable_paths"]
