"""The input of a conditioner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfp_flows.keras_engine import keras


def input_of(shape: Sequence[int], dtype: Any):
    """A symbolic input; under a policy such as `"mixed_bfloat16"` the layers cast it."""
    plain = dtype if dtype is None or not str(dtype).startswith("mixed_") else None
    return keras.layers.Input(tuple(shape), dtype=plain)
