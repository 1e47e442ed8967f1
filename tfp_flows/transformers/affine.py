"""Shifts and scales, and the maps that make a scale of a parameter."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfp_flows.transformers.base import Transformer

ScaleMap = Callable[[tf.Tensor], tf.Tensor]

_FLAT = 0.01  # a scale is saturated where its map has less than this share of its slope at 0


def exp_tanh(param: tf.Tensor) -> tf.Tensor:
    """scale = exp(2 tanh(param / 2)), within [e^-2, e^2] (RealNVP, arXiv 1605.08803)."""
    return 2.0 * tf.tanh(param / 2.0)


def sigmoid(param: tf.Tensor) -> tf.Tensor:
    """scale = sigmoid(param + 2), within (0, 1), 0.88 at 0 (Glow, arXiv 1807.03039)."""
    return tf.math.log_sigmoid(param + 2.0)


def clamp(param: tf.Tensor) -> tf.Tensor:
    """scale = exp(param / (1 + |param| / 5)), within [e^-5, e^5]: a clamp that keeps gradients."""
    return param / (1.0 + tf.abs(param) / 5.0)


def softplus(param: tf.Tensor) -> tf.Tensor:
    """scale = softplus(param + log(e - 1)) + 1e-3, within (1e-3, inf), 1 at 0."""
    return tf.math.log(tf.math.softplus(param + 0.541324854612918) + 1e-3)


SCALE_MAPS: dict[str, ScaleMap] = {f.__name__: f for f in (exp_tanh, sigmoid, clamp, softplus)}


def get_scale_map(scale_map: str | ScaleMap) -> ScaleMap:
    """Returns the named map, or the function itself.

    Raises:
      ValueError: if there is no map of that name.
    """
    if callable(scale_map):
        return scale_map
    if scale_map not in SCALE_MAPS:
        raise ValueError(
            f"scale_map must be one of {sorted(SCALE_MAPS)} or a function from parameter to "
            f"log-scale, got {scale_map!r}."
        )
    return SCALE_MAPS[scale_map]


class Additive(Transformer):
    r"""Shifts: `y = x + t`, with the one parameter `t`.

    Source: NICE: Non-linear Independent Components Estimation, arXiv 1410.8516.

    Example:
      >>> Additive().forward(tf.constant([1.0]), tf.constant([[10.0]]))[0].numpy()
      array([11.], dtype=float32)
    """

    num_params = 1

    def forward(self, x, params):
        return x + tf.squeeze(params, -2), tf.zeros_like(x)

    def inverse(self, y, params):
        return y - tf.squeeze(params, -2), tf.zeros_like(y)


class Affine(Transformer):
    r"""Scales and shifts.

    $$ y = x \, e^{s} + t, \qquad \text{log-slope} = s = \operatorname{scale\_map}(\theta) $$

    The parameters are `t` and `theta`, in this order.

    Source: Density estimation using Real NVP, arXiv 1605.08803; the scale maps also from Glow,
    arXiv 1807.03039.

    Args:
      scale_map: from a parameter to the log-scale `s`: `"exp_tanh"`, `"sigmoid"`, `"clamp"`,
        `"softplus"`, or your own function (register it with Keras to save whole models).

    Raises:
      ValueError: if `scale_map` is not a known name.

    Example:
      >>> y, log_slope = Affine().forward(tf.constant([2.0]), tf.constant([[1.0], [0.0]]))
      >>> y.numpy(), log_slope.numpy()
      (array([3.], dtype=float32), array([0.], dtype=float32))
    """

    num_params = 2

    def __init__(self, scale_map: str | ScaleMap = "exp_tanh"):
        super().__init__(dict(locals()))
        self._scale_map = get_scale_map(scale_map)

    def forward(self, x, params):
        shift, log_scale = self._shift_and_log_scale(params)
        return x * tf.exp(log_scale) + shift, log_scale

    def inverse(self, y, params):
        shift, log_scale = self._shift_and_log_scale(params)
        return (y - shift) * tf.exp(-log_scale), -log_scale

    def _shift_and_log_scale(self, params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shift, param = tf.unstack(params, num=2, axis=-2)
        return shift, self._scale_map(param)

    def diagnostics(self, params, used):
        """`saturation`: the share of the scales at which the scale map is flat."""
        _, param = tf.unstack(params, num=2, axis=-2)
        flat = self._slope(param) < _FLAT * self._slope(tf.zeros([], param.dtype))
        share = tf.reduce_sum(tf.cast(flat, used.dtype) * used) / tf.reduce_sum(used)
        return {"saturation": share}

    def _slope(self, param: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(param)
            log_scale = self._scale_map(param)
        return tf.abs(tape.gradient(log_scale, param, unconnected_gradients="zero"))

    def _describe(self):
        return getattr(self._scale_map, "__name__", repr(self._scale_map))


def get_transformer(transformer: Transformer | None) -> Transformer:
    """Returns the transformer, `Affine()` if None.

    Raises:
      TypeError: if it is anything else.
    """
    if transformer is None:
        return Affine()
    if not isinstance(transformer, Transformer):
        raise TypeError(
            "transformer must be an instance of transformers.Transformer, such as "
            f'Affine("clamp"), got {transformer!r}.'
        )
    return transformer
