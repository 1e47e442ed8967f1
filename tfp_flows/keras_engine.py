"""The Keras in use: Keras 3 by default, tf_keras where `TF_USE_LEGACY_KERAS=1` is set."""

import tensorflow as tf


def require_version(version: str, package: str, least: str) -> None:
    """Raises ImportError if `version` of a package is below `least`."""
    if [int(n) for n in version.split(".")[:2]] < [int(n) for n in least.split(".")]:
        raise ImportError(
            f"tfp_flows needs {package} {least} or later, found {version}: with earlier ones "
            f'models would not train. Install it: pip install "{package}>={least}".'
        )


# Either engine's tf.keras has a version, but in different places; one of them is always there.
IS_LEGACY = not hasattr(tf.keras, "__version__") or tf.keras.__version__.startswith("2.")

# Not tf.keras itself, whose view of Keras 3 is not the whole of it.
if IS_LEGACY:
    import tf_keras as keras

    require_version(keras.__version__, "tf-keras", "2.18")
else:
    import keras

    # Before it, a keras.Variable was a copy of its tf.Variable.
    require_version(keras.__version__, "keras", "3.10")

__all__ = ["IS_LEGACY", "keras", "require_version"]
