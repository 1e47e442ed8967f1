"""What a Keras description in a file may name: layers and their parts, never code."""

from __future__ import annotations

from types import ModuleType
from typing import Any

_PLACES = {
    "keras": {"DTypePolicy", "FloatDTypePolicy", "Functional", "Model", "Sequential"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.models.sequential": {"Sequential"},
    "tf_keras.src.engine.functional": {"Functional"},
    "tf_keras.src.engine.sequential": {"Sequential"},
    "tf_keras.src.mixed_precision.loss_scale_optimizer": {
        "LossScaleOptimizer",
        "LossScaleOptimizerV3",
    },
}
_WHOLE_PLACES = {
    "keras.activations",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.initializers",
    "keras.layers",
    "keras.mixed_precision",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras.regularizers",
}
_VALUES = {"__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__"}
_RUN_CODE_OR_READ_FILES = {
    "FlaxLayer",
    "IndexLookup",
    "IntegerLookup",
    "JaxLayer",
    "Lambda",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
}


def validate_allowed(config: Any, keras: ModuleType, known: dict[str, Any] | None = None) -> None:
    """Validates a description before Keras reads it, which may import any module that it names.

    Args:
      config: what `serialize_keras_object` returns; it is searched recursively.
      keras: the engine that would build it.
      known: further objects that it may name.

    Raises:
      ValueError: if it names anything but layers and their parts, and what is registered with
        Keras in this process.
    """
    if isinstance(config, list | tuple):
        for part in config:
            validate_allowed(part, keras, known)
    if not isinstance(config, dict):
        return
    if "class_name" in config and not _is_allowed(config, keras, known or {}):
        described = {k: v for k, v in config.items() if k in ("module", "class_name", "config")}
        raise ValueError(
            f"This file asks Keras to build {str(described)[:200]}, which could run code or read "
            "files, so it was not loaded. Custom layers and functions must be registered in this "
            "process: import the module that decorates them with "
            "@keras.saving.register_keras_serializable()."
        )
    for part in config.values():
        validate_allowed(part, keras, known)


def _is_allowed(config: dict, keras: ModuleType, known: dict[str, Any]) -> bool:
    name, module = str(config["class_name"]), str(config.get("module"))
    is_function = name == "function"
    if is_function:
        name = str(config.get("config"))
    # As Keras looks names up: the first that it finds in this process, then by module.
    registered = name if is_function else config.get("registered_name", name)
    if registered in known or keras.saving.get_registered_object(registered) is not None:
        return True
    if is_function:
        return module in ("builtins", "keras.activations") and hasattr(keras.activations, name)
    if name in _VALUES:
        return True
    if name in _RUN_CODE_OR_READ_FILES:
        return False
    is_operation = module.startswith("keras.src.ops.")  # what `x + y` leaves in a functional model
    return is_operation or module in _WHOLE_PLACES or name in _PLACES.get(module, ())
