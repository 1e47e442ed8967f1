"""`check_bijector`, a checker for any bijector, also for those of users."""

from tfp_flows.checking.check import BijectorFault, Report, check_bijector

__all__ = ["BijectorFault", "Report", "check_bijector"]
