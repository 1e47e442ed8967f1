"""Fully connected networks with a Lipschitz constant below 1, for residual flows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.conditioners.dense import with_context
from tfp_flows.core.evaluation import shared
from tfp_flows.keras_engine import keras

_SQUARINGS = 5  # the bound is then at most n^(1/128) times the norm: 4 % above it for 128 units
_STEEPEST = 1.1  # above the largest slope of x sigmoid(x), which is 1.0998


@tf.custom_gradient
def spectral_norm_bound(kernel: tf.Tensor) -> tf.Tensor:
    r"""A tight, differentiable upper bound of the spectral norm of a matrix.

    $$ \|W\|_2 \le \left\|(W^T W)^{2^k}\right\|_F^{1 / 2^{k+1}} $$

    Unlike power iteration it needs no state, and it is a bound from the first call on.

    Source: Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration,
    arXiv 2305.16173.

    Args:
      kernel: `[n, m]`.

    Returns:
      A scalar.

    Example:
      >>> bound = float(spectral_norm_bound(tf.constant([[3.0, 0.0], [0.0, 1.0]])))
      >>> 3.0 <= bound < 3.001
      True
    """
    limits = np.finfo(kernel.dtype.as_numpy_dtype)
    largest = tf.maximum(tf.reduce_max(tf.abs(kernel)), float(limits.tiny))
    scaled = kernel / largest  # so that nothing overflows
    wide = kernel.shape[0] < kernel.shape[1]
    power = tf.matmul(scaled, scaled, transpose_a=not wide, transpose_b=wide)
    power += float(limits.eps) ** 2 * np.eye(power.shape[0], dtype=kernel.dtype.as_numpy_dtype)
    powers, sizes = [], []
    for k in range(_SQUARINGS + 1):
        power = tf.matmul(power, power) if k else power
        sizes.append(tf.nn.l2_loss(power))
        power *= tf.math.rsqrt(sizes[-1])  # W^T W to the power of 2^k, up to a factor
        powers.append(power)
    shares = 0.25 * 0.5 ** np.arange(_SQUARINGS + 1)
    log_norm = tf.reduce_sum(tf.math.log(tf.stack(sizes)) * shares.astype(limits.dtype))
    bound = largest * tf.exp(log_norm + shares[-1] * math.log(2.0))

    def gradient(d: tf.Tensor) -> tf.Tensor:
        """That of a Schatten norm: `W (W^T W)^n`, scaled according to Euler's theorem."""
        product = powers[0]
        for power in powers[1:]:
            product = tf.matmul(product, power)
        slope = tf.matmul(product, scaled) if wide else tf.matmul(scaled, product)
        return d * tf.math.divide_no_nan(bound, tf.reduce_sum(slope * kernel)) * slope

    return bound, gradient


@keras.saving.register_keras_serializable(package="tfp_flows")
class SpectralDense(keras.layers.Layer):
    r"""A dense layer whose kernel has a spectral norm of at most `bound`.

    $$ h = x \hat W + b, \qquad \hat W = W \frac{c}{\max(c, \sigma(W))} $$

    with `c` for `bound`, and `σ` an upper bound of the spectral norm (`spectral_norm_bound`), which
    every call computes from the kernel: it holds after any update, and calls change no variable.

    Args:
      units: width of the output.
      bound: upper bound of the spectral norm, above 0.
      kernel_initializer: a Keras initialiser of the kernel before it is scaled.
      **kwargs: those of every Keras layer (`name`, `dtype`, ...).

    Example:
      >>> layer = SpectralDense(4, bound=0.5)
      >>> bool(tf.norm(layer(tf.constant([[3.0, 4.0]]))) <= 0.5 * 5.0)
      True
    """

    def __init__(
        self,
        units: int,
        bound: float = 1.0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = int(units)
        self.bound = float(bound)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=self.kernel_initializer,
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.built = True

    def call(self, inputs):
        kernel = shared(self, self._scaled_kernel)
        return tf.matmul(inputs, kernel) + tf.convert_to_tensor(self.bias)

    def _scaled_kernel(self):
        kernel = tf.convert_to_tensor(self.kernel)
        return kernel * (self.bound / tf.maximum(spectral_norm_bound(kernel), self.bound))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "bound": self.bound,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="tfp_flows")
class LipSwish(keras.layers.Layer):
    r"""Swish with a trainable temperature, scaled to a Lipschitz constant below 1.

    $$ \phi(x) = \frac{x \, \sigma(x \log(1 + e^\beta))}{1.1} $$

    Source: Residual Flows for Invertible Generative Modeling, arXiv 1906.02735, section 3.3.

    Args:
      **kwargs: those of every Keras layer (`name`, `dtype`, ...).

    Example:
      >>> float(LipSwish()(tf.constant(0.0)))
      0.0
    """

    def build(self, input_shape):
        self.beta = self.add_weight(
            name="beta", shape=(), initializer=keras.initializers.Constant(0.5)
        )
        self.built = True

    def call(self, inputs):
        temperature = tf.math.softplus(tf.convert_to_tensor(self.beta))
        return inputs * tf.sigmoid(temperature * inputs) / _STEEPEST

    def compute_output_shape(self, input_shape):
        return input_shape


def lipschitz_mlp(
    event_size: int,
    hidden: Sequence[int] = (128, 128),
    bound: float = 0.9,
    activation: str = "lipswish",
    context: int | Sequence[int] | None = None,
    dtype: Any = None,
    name: str = "lipschitz_mlp",
) -> keras.Model:
    """A multi-layer perceptron whose Lipschitz constant is at most `bound`, for `fb.Residual`.

    The bound of each of its `n` layers is the `n`-th root of `bound`; activations have slopes up to
    1. Unlike other conditioners it does not start at zero.

    Args:
      event_size: size of the event, also of the output.
      hidden: units of the hidden layers.
      bound: Lipschitz constant, between 0 and 1.
      activation: `"lipswish"` (see `LipSwish`), `"elu"` or `"tanh"`.
      context: shape of the context, `(k,)` or `k`; None: no context. Its features are added before
        the first activation, so the Lipschitz constant in the event holds for all contexts.
      dtype: dtype or dtype policy of the layers; None: the default of Keras.
      name: name of the model.

    Raises:
      ValueError: if `bound` is not between 0 and 1, or the activation is another one.

    Returns:
      A built `keras.Model`.

    Example:
      >>> lipschitz_mlp(3, hidden=(16,)).output_shape
      (None, 3)
    """
    if not 0 < bound < 1:
        raise ValueError(
            f"bound must be between 0 and 1, got {bound!r}: x + g(x) is invertible if g is a "
            "contraction. Usual values are 0.9 to 0.98."
        )
    if activation not in ("lipswish", "elu", "tanh"):
        raise ValueError(
            f"activation must be 'lipswish', 'elu' or 'tanh', got {activation!r}: its slope must "
            "be at most 1, and smooth, since the log-det depends on it."
        )
    widths = (*hidden, event_size)
    layer_bound = bound ** (1 / len(widths))
    layers: list[Any] = []
    for i, width in enumerate(widths):
        if i and activation == "lipswish":
            layers.append(LipSwish(dtype=dtype))
        elif i:
            layers.append(keras.layers.Activation(activation, dtype=dtype))
        layers.append(SpectralDense(width, layer_bound, dtype=dtype))
    return with_context(layers[:1], layers[1:], (event_size,), context, dtype, name)
