"""CDFs of mixtures of logistic distributions, on the logit scale, and their inverses.

Components come first and entries last, `[components, entries]`: rows are whole vectors, so that
sums over components are additions of rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit
from tfp_flows.solvers.implicit import implicit_inverse
from tfp_flows.solvers.root import increasing_root
from tfp_flows.transformers.affine import clamp, exp_tanh
from tfp_flows.transformers.base import Transformer, as_rows


class LogisticMixtureCDF(Transformer):
    r"""The CDF of a mixture of logistic distributions, on the logit scale, scaled and shifted.

    From data `y` to latent `x`, the direction of training, it is in closed form:

    $$ x = \operatorname{logit}\Big(\textstyle\sum_k \pi_k \,
       \sigma\Big(\frac{y - \mu_k}{s_k}\Big)\Big) \, e^{a} + b $$

    The other direction searches for the root of each entry, up to rounding, with the gradient of
    the implicit function theorem, which has no second derivatives. Where the parameters are 0 it is
    close to the identity.

    The parameters are the logits of the `components` weights, the means, the log-scales before a
    clamp, `a` before a tanh, and `b`: `3 * components + 2` in all.

    Source: Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv 1902.00275, section 3.2. In place of its bounds on the scales,
    `s` is within a factor `e^5` of its start, and `e^a` within `e^2` of 1, by smooth maps.

    Args:
      components: how many logistic distributions each mixture has.

    Raises:
      ValueError: if `components < 1`.
      tf.errors.InvalidArgumentError: from `forward`, if the search does not end.

    Example:
      >>> mixture = LogisticMixtureCDF(components=4)
      >>> y, _ = mixture.forward(tf.constant([1.0]), tf.zeros([mixture.num_params, 1]))
      >>> x, _ = mixture.inverse(y, tf.zeros([mixture.num_params, 1]))
      >>> np.allclose(y, 1.0, atol=0.3), np.allclose(x, 1.0, atol=1e-5)
      (True, True)
    """

    def __init__(self, components: int = 8):
        super().__init__(dict(locals()))
        if not isinstance(components, int | np.integer) or components < 1:
            raise ValueError(f"components must be a whole number of 1 or more, got {components!r}.")
        self.num_params = 3 * int(components) + 2

    def forward(self, x, params):
        mixture, log_scale, shift = self._split(params)
        logit = (tf.reshape(x, [-1]) - shift) * tf.exp(-log_scale)
        value, log_slope = quantile(logit, mixture)
        return tf.reshape(value, tf.shape(x)), tf.reshape(-log_slope - log_scale, tf.shape(x))

    def inverse(self, y, params):
        mixture, log_scale, shift = self._split(params)
        logit, log_slope = logit_cdf(tf.reshape(y, [-1]), mixture)
        value = logit * tf.exp(log_scale) + shift
        return tf.reshape(value, tf.shape(y)), tf.reshape(log_slope + log_scale, tf.shape(y))

    def _split(self, params: tf.Tensor) -> tuple[Mixture, tf.Tensor, tf.Tensor]:
        """The mixtures, and the log-scale and shift of what comes out of them, `[entries]`."""
        rows = as_rows(params)
        return mixture_of(rows[:-2]), exp_tanh(rows[-2]), rows[-1]


class Mixture(NamedTuple):
    """One mixture for each entry; all of shape `[components, entries]`."""

    log_weights: tf.Tensor
    means: tf.Tensor
    log_scales: tf.Tensor


def mixture_of(params: tf.Tensor) -> Mixture:
    """The mixtures with parameters `[3 * components, entries]`.

    These are the logits of the weights, the means, and the log-scales. Components differ even
    where their parameters are equal, or training would never tell them apart: zeros give a mixture
    that is close to one standard logistic distribution.
    """
    logits, means, log_scales = tf.split(params, 3)
    start_means, start_log_scale = _start(logits.shape[0])
    _, shifted, log_total = _log_sum(logits)
    return Mixture(
        shifted - log_total,
        means + tf.constant(start_means[:, None], params.dtype),
        clamp(log_scales) + tf.constant(start_log_scale, params.dtype),
    )


def _start(components: int) -> tuple[np.ndarray, float]:
    """Means at quantiles of a logistic distribution of half the size, and their log-scale.

    The variance of the whole is that of a standard logistic distribution, pi^2 / 3.
    """
    shares = (np.arange(components) + 0.5) / components
    means = 0.5 * np.log(shares / (1.0 - shares))
    return means, float(0.5 * np.log(1.0 - 3.0 * np.var(means) / np.pi**2))


def logit_cdf(value: tf.Tensor, mixture: Mixture) -> tuple[tf.Tensor, tf.Tensor]:
    """`log F - log(1 - F)` of the CDF `F` at `value` `[entries]`, and its log-derivative.

    The derivative is `f / (F (1 - F))`. Far out, the logarithms of its three parts are huge and
    nearly cancel, so the largest term of each sum is taken out of all of them.
    """
    z = (value - mixture.means) * tf.exp(-mixture.log_scales)
    most_below, below, log_below = _log_sum(mixture.log_weights + tf.math.log_sigmoid(z))
    most_above, above, log_above = _log_sum(mixture.log_weights + tf.math.log_sigmoid(-z))
    terms = below + above - mixture.log_weights - mixture.log_scales
    log_slope = tf.reduce_logsumexp(terms, axis=0) - log_below - log_above
    return (most_below - most_above) + (log_below - log_above), log_slope


def _log_sum(terms: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The largest term of each column, the terms less that, and the log of their sum."""
    largest = tf.stop_gradient(tf.reduce_max(terms, axis=0))
    terms = terms - largest
    return largest, terms, tf.math.log(tf.reduce_sum(tf.exp(terms), axis=0))


def quantile(logit: tf.Tensor, mixture: Mixture) -> tuple[tf.Tensor, tf.Tensor]:
    """The inverse of `logit_cdf`: the value `[entries]`, and `logit_cdf`'s log-derivative there.

    The gradient is that of the implicit function theorem.
    """
    fixed = Mixture(*(tf.stop_gradient(p) for p in mixture))
    log_slopes: list[tf.Tensor] = []  # at the root

    def evaluate(value):
        found, log_slope = logit_cdf(value, mixture)
        log_slopes.append(tf.stop_gradient(log_slope))
        return found

    def solve(target):
        def residual(value):
            found, log_slope = logit_cdf(value, fixed)
            return found - target, tf.exp(log_slope)

        # Each component has its own quantile; that of the mixture lies between them.
        quantiles = fixed.means + tf.exp(fixed.log_scales) * target
        return increasing_root(
            residual,
            tf.reduce_min(quantiles, axis=0),
            tf.reduce_max(quantiles, axis=0),
            tf.reduce_sum(tf.exp(fixed.log_weights) * quantiles, axis=0),
            4.0 * rounding_unit(logit.dtype) * tf.maximum(tf.abs(target), 1.0),
        )

    def solve_transposed(_, d):
        # Between components that are far apart the CDF is as good as flat: this stays finite.
        return d * tf.exp(tf.minimum(-log_slopes[-1], 0.5 * math.log(logit.dtype.max)))

    value = implicit_inverse(evaluate, logit, solve, solve_transposed)
    return value, logit_cdf(value, mixture)[1]
