"""The Keras in use: Keras 3 by default, tf_keras where `TF_USE_LEGACY_KERAS=1` is set."""

import tensorflow as tf


def require_version(version: str, package: str, minimum: str) -> None:
    """Raises ImportError if `version` of a package is below `minimum`."""
    if [int(n) for n in version.split(".")[:2]] < [int(n) for n in minimum.split(".")]:
        raise ImportError(
            f"tfp_flows needs {package} {minimum} or later, found {version}: with earlier ones "
            f'models would not train. Install it: pip install "{package}>={minimum}".'
        )


# tf.keras has no `__version__` if it is tf_keras, or one of 2.x.
IS_LEGACY = not hasattr(tf.keras, "__version__") or tf.keras.__version__.startswith("2.")

# Not tf.keras, which shows only a part of Keras 3.
if IS_LEGACY:
    import tf_keras as keras

    require_version(keras.__version__, "tf-keras", "2.18")
else:
    import keras

    # In earlier versions a keras.Variable is a copy of its tf.Variable.
    require_version(keras.__version__, "keras", "3.10")

__all__ = ["IS_LEGACY", "keras", "require_version"]
