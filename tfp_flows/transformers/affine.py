"""From a network's raw output to the log-scale of an affine coupling.

Every map is smooth and starts near the identity at a raw output of 0.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

ScaleMap = Callable[[tf.Tensor], tf.Tensor]


def exp_tanh(raw: tf.Tensor) -> tf.Tensor:
    """scale = exp(2 tanh(raw / 2)), within [e^-2, e^2] (RealNVP, arXiv 1605.08803)."""
    return 2.0 * tf.tanh(raw / 2.0)


def sigmoid(raw: tf.Tensor) -> tf.Tensor:
    """scale = sigmoid(raw + 2), within (0, 1), 0.88 at 0 (Glow, arXiv 1807.03039)."""
    return tf.math.log_sigmoid(raw + 2.0)


def clamp(raw: tf.Tensor) -> tf.Tensor:
    """scale = exp(raw / (1 + |raw| / 5)), within [e^-5, e^5]: a clamp that keeps gradients."""
    return raw / (1.0 + tf.abs(raw) / 5.0)


def softplus(raw: tf.Tensor) -> tf.Tensor:
    """scale = softplus(raw + log(e - 1)) + 1e-3, within (1e-3, inf), 1 at 0."""
    return tf.math.log(tf.math.softplus(raw + 0.541324854612918) + 1e-3)


SCALE_MAPS: dict[str, ScaleMap] = {f.__name__: f for f in (exp_tanh, sigmoid, clamp, softplus)}


def get_scale_map(scale_map: str | ScaleMap) -> ScaleMap:
    """Returns the named map, or the function itself (raw output -> log-scale)."""
    if callable(scale_map):
        return scale_map
    if scale_map not in SCALE_MAPS:
        raise ValueError(
            f"scale_map must be one of {sorted(SCALE_MAPS)} or a function from raw output to "
            f"log-scale, got {scale_map!r}."
        )
    return SCALE_MAPS[scale_map]
