"""Normalizing flows for TensorFlow Probability that train, save, export, and are right."""

from tfp_flows import bijectors, conditioners, transformers
from tfp_flows.callbacks import BackupAndRestore, FlowHealth
from tfp_flows.checking import check_bijector
from tfp_flows.core import FlowBijector, UntrackedVariableError
from tfp_flows.distributions import Dequantized, Flow
from tfp_flows.distributions.initialization import initialize, mark_initialized
from tfp_flows.flows import (
    dequantizer,
    ffjord,
    flow_plus_plus,
    glow,
    iaf,
    maf,
    neural_spline,
    nice,
    planar,
    radial,
    real_nvp,
    residual,
    sylvester,
    with_labels,
)
from tfp_flows.model import FlowModel
from tfp_flows.saving import verify
from tfp_flows.version import __version__

__all__ = [
    "BackupAndRestore",
    "Dequantized",
    "Flow",
    "FlowBijector",
    "FlowHealth",
    "FlowModel",
    "UntrackedVariableError",
    "__version__",
    "bijectors",
    "check_bijector",
    "conditioners",
    "dequantizer",
    "ffjord",
    "flow_plus_plus",
    "glow",
    "iaf",
    "initialize",
    "maf",
    "mark_initialized",
    "neural_spline",
    "nice",
    "planar",
    "radial",
    "real_nvp",
    "residual",
    "sylvester",
    "transformers",
    "verify",
    "with_labels",
]
