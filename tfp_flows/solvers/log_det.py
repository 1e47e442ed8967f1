r"""Log-dets of $I + J$, where $J$ is the Jacobian of a contraction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

Network = Callable[[tf.Tensor], tf.Tensor]


def exact_log_det(network: Network, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`(g(y), log|det(I + J)|)` from one evaluation of the network, at `d` copies of `y`.

    Each copy yields one row of the Jacobian, so one vector-Jacobian product is enough.

    Args:
      network: `g: [..., d] -> [..., d]`.
      y: `[..., d]`.
    """
    size = y.shape[-1]
    eye = tf.eye(size, dtype=y.dtype)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        copies = tf.broadcast_to(y, tf.concat([[size], tf.shape(y)], 0))
        copies = tf.ensure_shape(copies, [size, *y.shape])
        tape.watch(copies)
        values = network(copies)
    each_row = tf.reshape(eye, [size] + [1] * (y.shape.rank - 1) + [size])
    rows = tape.gradient(
        values,
        copies,
        tf.broadcast_to(each_row, tf.shape(values)),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    jacobian = tf.transpose(rows, [*range(1, y.shape.rank), 0, y.shape.rank])
    return values[0], log_abs_det(eye + jacobian)


@tf.custom_gradient
def log_abs_det(matrix: tf.Tensor):
    r"""log|det M| of matrices `[..., d, d]` with $x^T M x > 0$, as all $I + J$ are here.

    Such matrices need no pivoting: Gauss-Jordan elimination in place, `d` updates of rank one,
    yields the inverse, which is the gradient. XLA has no CPU kernel for `tf.linalg.slogdet`, and
    for small `d` this is faster.
    """
    units = np.eye(matrix.shape[-1], dtype=matrix.dtype.as_numpy_dtype)
    inverse, pivots = matrix, []
    for k, unit in enumerate(units):
        pivots.append(inverse[..., k, k])
        column = inverse[..., :, k] - unit
        row = (inverse[..., k, :] + unit) / pivots[-1][..., tf.newaxis]
        inverse -= column[..., :, tf.newaxis] * row[..., tf.newaxis, :]
    log_det = tf.reduce_sum(tf.math.log(tf.abs(tf.stack(pivots, -1))), -1)
    return log_det, lambda d: d[..., tf.newaxis, tf.newaxis] * tf.linalg.matrix_transpose(inverse)


def unbiased_log_det(
    network: Network,
    y: tf.Tensor,
    seed: tf.Tensor,
    n_exact_terms: int,
    geom_p: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""`(g(y), estimate of log|det(I + J)|)` from one evaluation of the network.

    $$ \sum_{k=1}^{n} \frac{(-1)^{k+1}}{k} \frac{v^T J^k v}{P(n \ge k)} $$

    Its gradient is that of $u^T J v$, where $u = \sum_{k=0}^n (-1)^k (J^T)^k v / P(n \ge k)$ is
    held constant. Nothing of the series is kept in memory.

    Source: Residual Flows for Invertible Generative Modeling, arXiv 1906.02735.

    Args:
      network: `g: [..., d] -> [..., d]`.
      y: `[..., d]`.
      seed: of `v` (Rademacher, one vector per example) and `n` (one number for the batch).
      n_exact_terms: the smallest `n`.
      geom_p: `n - n_exact_terms` is geometric: the probability that a term is the last one.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(y)
        value = network(y)

    def vjp(w):
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(value, y, w, unconnected_gradients=zero)

    noise_seed, terms_seed = tf.unstack(tfp.random.split_seed(seed))
    noise = tfp.random.rademacher(tf.shape(y), y.dtype, noise_seed)
    noise = tf.ensure_shape(noise, y.shape)
    more = tf.constant(1.0 - geom_p, y.dtype)  # probability of one more term
    uniform = 1.0 - tf.random.stateless_uniform([], terms_seed, dtype=y.dtype)  # never 0
    terms = n_exact_terms + tf.cast(tf.math.log(uniform) / tf.math.log(more), tf.int32)

    def body(k, power, weight, series, u):
        power = tf.stop_gradient(-vjp(power))  # (-1)^k (J^T)^k v
        weight = tf.where(k > n_exact_terms, weight / more, weight)
        series -= weight / tf.cast(k, y.dtype) * _dot(power, noise)
        return k + 1, power, weight, series, u + weight * power

    start = (1, noise, tf.ones([], y.dtype), tf.zeros_like(y[..., 0]), noise)
    *_, series, u = tf.while_loop(lambda k, *_: k <= terms, body, start)
    series, u = tf.stop_gradient(series), tf.stop_gradient(u)
    slope = _dot(vjp(u), noise)
    return value, series + (slope - tf.stop_gradient(slope))


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b, axis=-1)
