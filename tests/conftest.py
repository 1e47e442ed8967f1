"""Seeds and quiet logs for every test."""

import gc
import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

from tfp_flows.keras_engine import keras

_TESTS = itertools.count(1)

gc.freeze()  # what the imports made stays; collections need not look at it


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)
    yield
    if next(_TESTS) % 25 == 0:
        gc.unfreeze()
    tf.keras.backend.clear_session()  # collects garbage
    gc.freeze()  # what is left, traces that TensorFlow keeps, is looked at again now and then
