"""Rotations of angles."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector
from tfp_flows.core.random_values import random_state
from tfp_flows.transformers.spline import on_circle


class Rotation(FlowBijector):
    r"""Rotates every angle of an event by an angle of its own.

    $$ y = (x + \theta) \bmod 2b, \qquad \log|\det J| = 0 $$

    It moves the seam between two circular splines.

    Source: Normalizing Flows on Tori and Spheres, arXiv 2002.02428.

    Args:
      features: the size of the last axis, which holds the angles.
      seed: of the initial random rotation; from TensorFlow's global generator if None.
      bound: half the circumference; angles lie in `[-bound, bound)`.
      dtype: of the variable, which is cast to that of the input.
      rotation: a variable of shape `[features]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: on a call, if an angle is outside the circle (in graph mode
        `tf.errors.InvalidArgumentError`).

    Example:
      >>> rotation = Rotation(1, rotation=tf.Variable([3.0]))
      >>> rotation.forward([1.0]).numpy().round(3)
      array([-2.283], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        seed: int | None = None,
        bound: float = math.pi,
        dtype: tf.DType = tf.float32,
        rotation: tf.Variable | None = None,
        name: str = "rotation",
    ):
        self._bound = float(bound)
        if rotation is None:
            start = self._random_angles(features, random_state(seed))
            rotation = tf.Variable(tf.constant(start, dtype), name="rotation")
        self.rotation = rotation
        super().__init__(
            forward_min_event_ndims=1,
            parameters={
                "features": features,
                "seed": seed,
                "bound": bound,
                "dtype": dtype,
                "rotation": rotation,
                "name": name,
            },
            name=name,
        )

    def _reinitialised(self, index: int) -> list[tuple[tf.Variable, np.ndarray]]:
        random = random_state(self.parameters["seed"], index)
        return [(self.rotation, self._random_angles(self.rotation.shape[0], random))]

    def _random_angles(self, features: int, random: np.random.RandomState) -> np.ndarray:
        return random.uniform(-self._bound, self._bound, features)

    def _forward_and_log_det(self, x, context):
        return self._rotated(x, 1.0)

    def _inverse_and_log_det(self, y, context):
        return self._rotated(y, -1.0)

    def _rotated(self, angles: tf.Tensor, sign: float) -> tuple[tf.Tensor, tf.Tensor]:
        angles = on_circle(angles, self._bound, self.name)
        moved = angles + sign * tf.cast(self.rotation, angles.dtype) + self._bound
        turns = tf.stop_gradient(tf.floor(moved / (2.0 * self._bound)))
        wrapped = moved - 2.0 * self._bound * turns - self._bound
        return wrapped, tf.zeros(tf.shape(angles)[:-1], angles.dtype)

    def _describe(self):
        return f"{self.rotation.shape[0]}"
