"""Writing and reading files: atomic, verified by reading them back, protected by checksums."""

from tfp_flows.saving.allowed import validate_allowed
from tfp_flows.saving.atomic import atomic_write, local_path, remove_stale_drafts, reserve
from tfp_flows.saving.checksum import (
    FORMAT,
    add_checksum,
    add_checksum_to_keras_file,
    check_format,
    check_store,
    validate_checksum,
    verify,
)
from tfp_flows.saving.export import export_saved_model
from tfp_flows.saving.object_graph import from_config, from_config_and_weights, to_config
from tfp_flows.saving.onnx_file import export_onnx
from tfp_flows.saving.verification import (
    load_arrays,
    reference_values,
    verify_arrays,
    verify_weights_file,
)

__all__ = [
    "FORMAT",
    "add_checksum",
    "add_checksum_to_keras_file",
    "atomic_write",
    "check_format",
    "check_store",
    "export_onnx",
    "export_saved_model",
    "from_config",
    "from_config_and_weights",
    "load_arrays",
    "local_path",
    "reference_values",
    "remove_stale_drafts",
    "reserve",
    "to_config",
    "validate_allowed",
    "validate_checksum",
    "verify",
    "verify_arrays",
    "verify_weights_file",
]
