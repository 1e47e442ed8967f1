"""Radial flows: space is drawn together or pushed apart around one point."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.amortized import Amortized, dot, parts
from tfp_flows.bijectors.tanh_root import above_minus_one


class Radial(Amortized):
    r"""Moves a vector towards a centre or away from it, the more the nearer it is.

    $$ y = x + \frac{\beta}{\alpha + r} (x - c), \quad r = |x - c|, \qquad
       \log|\det J| = (d - 1) \log\Big(1 + \frac{\beta}{\alpha + r}\Big)
       + \log\Big(1 + \frac{\alpha \beta}{(\alpha + r)^2}\Big) $$

    Both directions are explicit: the radius before follows from the radius after by a quadratic
    equation. It is invertible because `alpha = softplus(.)` is above 0 and `beta = alpha m(.)`
    above `-alpha`: `m` maps to numbers above -0.999, and 0 to 0. It starts as the identity, with
    `beta = 0` and a random centre.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770, and its appendix A.2.

    Args:
      features: size of a vector.
      conditioner: as for `Planar`, with `features + 2` outputs.
      seed: of the centre; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      raw: variable `[c, raw alpha, raw beta]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: as for `Planar`.

    Example:
      >>> radial = Radial(2, raw=tf.Variable([0.0, 0.0, 0.0, -50.0]))
      >>> radial.forward([[0.0, 0.0], [0.0, 100.0]]).numpy().round(1)
      array([[ 0. ,  0. ],
             [ 0. , 99.3]], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        conditioner: Any = None,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        raw: tf.Variable | None = None,
        name: str = "radial",
    ):
        parameters = dict(locals())
        super().__init__(features, conditioner, seed, dtype, raw, parameters, name)

    def _start(self, random):
        return np.concatenate([random.normal(size=self._features), np.zeros(2)])

    def _pull(self, value, context):
        """The centre, `alpha` and `beta`."""
        centre, alpha, beta = parts(self._numbers(value, context), self._features, 1, 1)
        alpha = tf.math.softplus(alpha[..., 0])
        return centre, alpha, alpha * above_minus_one(beta[..., 0])

    def _forward_and_log_det(self, x, context):
        centre, alpha, beta = self._pull(x, context)
        stretch, log_det = self._stretch(_length(x - centre), alpha, beta)
        return centre + (x - centre) * stretch[..., tf.newaxis], log_det

    def _inverse_and_log_det(self, y, context):
        centre, alpha, beta = self._pull(y, context)
        after = _length(y - centre)
        # The root of 0 or more of r^2 + p r = alpha * after, without a difference of near numbers.
        p = alpha + beta - after
        root = tf.sqrt(tf.square(p) + 4 * alpha * after)
        total = tf.where(p > 0, p + root, 1)
        before = tf.where(p > 0, 2 * alpha * after / total, 0.5 * (root - p))
        stretch, log_det = self._stretch(before, alpha, beta)
        return centre + (y - centre) / stretch[..., tf.newaxis], -log_det

    def _stretch(self, radius, alpha, beta):
        """By how much a vector of this radius grows, and the log-det."""
        reach = alpha + radius
        stretch = 1 + beta / reach
        along = 1 + alpha * beta / tf.square(reach)
        return stretch, (self._features - 1) * tf.math.log(stretch) + tf.math.log(along)


def _length(vectors: tf.Tensor) -> tf.Tensor:
    """Euclidean norms, with gradient 0 at 0."""
    squares = dot(vectors, vectors)
    positive = squares > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squares, 1)), squares)
