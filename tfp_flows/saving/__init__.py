"""Files that prove themselves: complete, read back, signed, and swapped in whole."""

from tfp_flows.saving.allowed import refuse_code
from tfp_flows.saving.atomic import local_path, remove_stale_drafts, reserve, whole_or_not_at_all
from tfp_flows.saving.checksum import (
    FORMAT,
    check_format,
    check_store,
    refuse_damaged,
    sign_keras_file,
    sign_weights_file,
    verify,
)
from tfp_flows.saving.export import export_saved_model
from tfp_flows.saving.object_graph import from_config, rebuilt, to_config
from tfp_flows.saving.onnx_file import export_onnx
from tfp_flows.saving.verification import load_arrays, prove, prove_same_arrays, prove_weights_file

__all__ = [
    "FORMAT",
    "check_format",
    "check_store",
    "export_onnx",
    "export_saved_model",
    "from_config",
    "load_arrays",
    "local_path",
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
    "to_config",
    "verify",
    "whole_or_not_at_all",
]
