"""Files that prove themselves: complete, read back, and swapped in whole."""

from tfp_flows.saving.export import export_saved_model, latent_sampler, prove_equal, signatures
from tfp_flows.saving.files import whole_or_not_at_all
from tfp_flows.saving.object_graph import from_config, to_config
from tfp_flows.saving.weights import check_weights_file, load_arrays, prove_same_arrays

__all__ = [
    "check_weights_file",
    "export_saved_model",
    "from_config",
    "latent_sampler",
    "load_arrays",
    "prove_equal",
    "prove_same_arrays",
    "signatures",
    "to_config",
    "whole_or_not_at_all",
]
