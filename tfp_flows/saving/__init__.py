"""Files that prove themselves: complete, read back, signed, and swapped in whole."""

from tfp_flows.saving.allowed import refuse_code
from tfp_flows.saving.digest import (
    check_store,
    refuse_damaged,
    sign_keras_file,
    sign_weights_file,
    verify,
)
from tfp_flows.saving.export import export_saved_model
from tfp_flows.saving.files import remove_stale_drafts, reserve, whole_or_not_at_all
from tfp_flows.saving.format import FORMAT, check_format
from tfp_flows.saving.object_graph import from_config, rebuilt, to_config
from tfp_flows.saving.onnx_file import export_onnx
from tfp_flows.saving.paths import local_path
from tfp_flows.saving.proof import provable, prove
from tfp_flows.saving.sampling import latent_sampler
from tfp_flows.saving.signatures import signatures
from tfp_flows.saving.weights import load_arrays, prove_same_arrays, prove_weights_file

__all__ = [
    "FORMAT",
    "check_format",
    "check_store",
    "export_onnx",
    "export_saved_model",
    "from_config",
    "latent_sampler",
    "load_arrays",
    "local_path",
    "provable",
    "prove",
    "prove_same_arrays",
    "prove_weights_file",
    "rebuilt",
    "refuse_code",
    "refuse_damaged",
    "remove_stale_drafts",
    "reserve",
    "sign_keras_file",
    "sign_weights_file",
    "signatures",
    "to_config",
    "verify",
    "whole_or_not_at_all",
]
