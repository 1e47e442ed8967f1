"""Planar flows: one direction of space is bent."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.amortized import Amortized, dot, parts
from tfp_flows.bijectors.tanh_root import above_minus_one, slope_at, tanh_root


class Planar(Amortized):
    r"""Pushes a vector along one direction, as far as its place along another one says.

    $$ y = x + \hat u \tanh(w \cdot x + b), \qquad
       \log|\det J| = \log\big(1 + w \cdot \hat u \, (1 - \tanh^2(w \cdot x + b))\big) $$

    From latent to data it is explicit, and samples with their densities are cheap: made for
    variational inference. The way back solves one scalar equation for each example,
    `a + (w . u) tanh(a) = w . y + b` for `a = w . x + b`. It always has one solution, because

    $$ \hat u = u + \big(m(w \cdot u) - w \cdot u\big) w / |w|^2 $$

    makes `w . u` larger than -1: `m` maps to numbers above -0.999, and 0 to 0. It starts as the
    identity: `u` and `b` are 0, `w` is random.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770, and its appendix A.1,
    where `m` is larger than -1 and not 0 at 0.

    Args:
      features: size of a vector.
      conditioner: a Keras layer, `tf.Module` or function from contexts `[n, k]` to changes of the
        parameters, `[n, 2 * features + 1]`, in the order of `raw`. Every example then has
        parameters of its own. None: no context is read.
      seed: of `w`; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      raw: variable `[w, u, b]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: on a call, vectors of another size; a missing context; or a conditioner's output
        of the wrong width.

    Example:
      >>> planar = Planar(2, raw=tf.Variable([1.0, 0.0, 0.0, 3.0, 0.0]))
      >>> planar.forward([[0.0, 1.0], [9.0, 1.0]]).numpy()
      array([[0., 1.],
             [9., 4.]], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        conditioner: Any = None,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        raw: tf.Variable | None = None,
        name: str = "planar",
    ):
        parameters = dict(locals())
        super().__init__(features, conditioner, seed, dtype, raw, parameters, name)

    def _start(self, random):
        w = random.normal(size=self._features) / np.sqrt(self._features)
        return np.concatenate([w, np.zeros(self._features + 1)])

    def _bend(self, value, context):
        """`w`, the direction to push in, their product, and `b`."""
        w, u, b = parts(self._numbers(value, context), self._features, self._features, 1)
        product = dot(w, u)
        allowed = above_minus_one(product)
        square = tf.maximum(dot(w, w), 1e-12)
        u += ((allowed - product) / square)[..., tf.newaxis] * w
        return w, u, allowed, b[..., 0]

    def _forward_and_log_det(self, x, context):
        w, u, product, b = self._bend(x, context)
        tanh = tf.tanh(dot(x, w) + b)
        return x + u * tanh[..., tf.newaxis], tf.math.log(slope_at(tanh, product))

    def _inverse_and_log_det(self, y, context):
        w, u, product, b = self._bend(y, context)
        tanh = tf.tanh(tanh_root(dot(y, w) + b, product))
        return y - u * tanh[..., tf.newaxis], -tf.math.log(slope_at(tanh, product))
