"""The protocol that every bijector of this package follows."""

from tfp_flows.core.bijector import FlowBijector
from tfp_flows.core.naming import variable_paths
from tfp_flows.core.network import Network
from tfp_flows.core.variables import UntrackedVariableError

__all__ = ["FlowBijector", "Network", "UntrackedVariableError", "variable_paths"]
