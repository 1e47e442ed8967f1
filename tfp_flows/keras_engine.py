"""The Keras in use: Keras 3 by default, tf_keras where `TF_USE_LEGACY_KERAS=1` is set."""

import tensorflow as tf

# Either engine's tf.keras has a version, but in different places; one of them is always there.
IS_LEGACY = not hasattr(tf.keras, "__version__") or tf.keras.__version__.startswith("2.")

# Not tf.keras itself, whose view of Keras 3 is not the whole of it.
if IS_LEGACY:
    import tf_keras as keras
else:
    import keras

__all__ = ["IS_LEGACY", "keras"]
