"""Seeds and quiet logs for every test."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

from tfp_flows.keras_engine import keras

gc.freeze()  # what the imports made stays; collections need not look at it


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)
    yield
    tf.keras.backend.clear_session()  # collects garbage
    gc.freeze()  # what is left, traces that TensorFlow keeps, would be looked at after each test
