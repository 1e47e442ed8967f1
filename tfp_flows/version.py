"""The version of the package, for files that outlive it."""

__version__ = "0.1.0"
