"""A public checker for bijectors, ours and users' own."""

from tfp_flows.checking.check import BijectorFault, Report, check_bijector

__all__ = ["BijectorFault", "Report", "check_bijector"]
