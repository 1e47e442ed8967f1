"""Seeds and quiet logs for every test."""

import gc
import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from tfp_flows.keras_engine import keras

_TESTS = itertools.count(1)

gc.freeze()  # what the imports made stays; collections need not look at it


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)
    yield
    if next(_TESTS) % 25 == 0:
        gc.unfreeze()
    _forget_gradients_of_loaded_models()
    tf.keras.backend.clear_session()  # collects garbage
    gc.freeze()  # what is left, traces that TensorFlow keeps, is looked at again now and then


def _forget_gradients_of_loaded_models():
    """TensorFlow does not, and each keeps a whole SavedModel: 10 GB in a long run."""
    registry = ops.gradient_registry._registry
    for name in [n for n in registry if n.startswith("CustomGradient-")]:
        del registry[name]
