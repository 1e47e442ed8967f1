"""Mixtures of logistic distributions: their CDF on the logit scale, and its inverse.

Components come first and entries last, `[components, entries]`: rows are whole vectors, so that
sums over components are additions of rows.

Source: Flow++, arXiv 1902.00275, section 3.2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_flows.core.numerics import rounding_unit
from tfp_flows.solvers.implicit import implicit_inverse
from tfp_flows.solvers.root import increasing_root
from tfp_flows.transformers.affine import clamp


class Mixture(NamedTuple):
    """One mixture for each entry; all of shape `[components, entries]`."""

    log_weights: tf.Tensor
    means: tf.Tensor
    log_scales: tf.Tensor


def read_mixture(raw: tf.Tensor) -> Mixture:
    """The mixtures with raw parameters `[3 * components, entries]`.

    These are the logits of the weights, the means, and the log-scales. Components differ even
    where their raw parameters are equal, or training would never tell them apart: zeros give
    a mixture that is close to one standard logistic distribution.
    """
    logits, means, log_scales = tf.split(raw, 3)
    places, log_scale = _start(logits.shape[0])
    _, shifted, log_total = _log_sum(logits)
    return Mixture(
        shifted - log_total,
        means + tf.constant(places[:, None], raw.dtype),
        clamp(log_scales) + tf.constant(log_scale, raw.dtype),
    )


def _start(components: int) -> tuple[np.ndarray, float]:
    """Means at quantiles of a logistic distribution of half the size, and their log-scale.

    The variance of the whole is that of a standard logistic distribution, pi^2 / 3.
    """
    shares = (np.arange(components) + 0.5) / components
    places = 0.5 * np.log(shares / (1.0 - shares))
    return places, float(0.5 * np.log(1.0 - 3.0 * np.var(places) / np.pi**2))


def logit_cdf(value: tf.Tensor, mixture: Mixture) -> tuple[tf.Tensor, tf.Tensor]:
    """`log F - log(1 - F)` of the CDF `F` at `value` `[entries]`, and its log-derivative.

    The derivative is `f / (F (1 - F))`. Far out, the logarithms of its three parts are huge and
    nearly cancel, so the largest term of each sum is left out of all of them.
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
