"""Autoregressive bijectors: every entry is transformed given the entries before it.

Not `tfb.MaskedAutoregressiveFlow`: it runs its network twice for a log-prob, its masks are
constraints that Keras 3 optimizers ignore, and its cache outlives updates.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.solvers.fixed_point import triangular_fixed_point
from tfp_flows.solvers.implicit import implicit_inverse
from tfp_flows.transformers import RationalQuadraticSpline, Transformer
from tfp_flows.transformers.affine import get_transformer
from tfp_flows.transformers.base import split_params


class MaskedAutoregressive(FlowBijector):
    r"""Transforms every entry with parameters computed from the entries before it.

    $$ y_i = f(x_i; \theta_i(y_{<i})), \qquad
       \log|\det J| = \textstyle\sum_i \log f'(x_i; \theta_i(y_{<i})) $$

    where `f` is a transformer. From data to latent it takes one evaluation of the network. The
    other way all entries are computed from those of the pass before, until nothing changes: after
    `k` passes the first `k` are right, and most often all are long before that.

    Source: Masked Autoregressive Flow for Density Estimation, arXiv 1705.07057. Under `fb.Invert`
    it is a layer of Improving Variational Inference with Inverse Autoregressive Flow, arXiv
    1606.04934, where sampling takes the one evaluation.

    Args:
      conditioner: a Keras layer, `tf.Module` or function `[..., d] -> [..., num_params * d]`, such
        as `conditioners.made(d, num_params)`: the first parameter of all entries, then the second
        of all entries, and so on; or `-> [..., d, num_params]`, such as TFP's
        `tfb.AutoregressiveNetwork(params=num_params)`. In some order, the parameters of an entry
        depend on the entries before it alone. A context is its second argument.
      transformer: the element-wise map; `Affine()` if None.
      name: name of the bijector.
      parameters: of subclasses, their constructor's arguments.

    Raises:
      TypeError: if `transformer` is not a `Transformer`.
      ValueError: if the conditioner's output has the wrong width.
      tf.errors.InvalidArgumentError: from `forward`, if the conditioner is not autoregressive
        (XLA has no such checks; all values are NaN then).

    Example:
      >>> from tfp_flows.transformers import Affine
      >>> running = lambda y: tf.concat([tf.cumsum(y, exclusive=True, axis=-1), 0.0 * y], -1)
      >>> MaskedAutoregressive(running, Affine("clamp")).forward([[1.0, 1.0, 1.0]]).numpy()
      array([[1., 2., 4.]], dtype=float32)
    """

    def __init__(
        self,
        conditioner: Any,
        transformer: Transformer | None = None,
        name: str = "masked_autoregressive",
        parameters: dict[str, Any] | None = None,
    ):
        parameters = dict(locals()) if parameters is None else parameters
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)
        self._transformer = get_transformer(transformer)
        self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as it was given."""
        return self._network.net

    def _inverse_and_log_det(self, y, context):
        x, log_slope = self._transformer.inverse(y, self._condition(y, context))
        return x, tf.reduce_sum(log_slope, axis=-1)

    def _forward_and_log_det(self, x, context):
        slopes: list[tf.Tensor] = []  # the Jacobian's diagonal, at the root

        def evaluate(y):
            # What passes through the network makes the Jacobian's strictly triangular part, and
            # all that depends on variables and context; the diagonal is known anyway.
            params = self._condition(y, context)
            latent, log_slope = self._transformer.inverse(tf.stop_gradient(y), params)
            slopes.append(tf.stop_gradient(tf.exp(log_slope)))
            return latent

        def solve_transposed(triangular_vjp, d):
            slope = slopes[-1]
            return triangular_fixed_point(
                lambda u: (d - triangular_vjp(u)) / slope, d / slope
            ).value

        y = implicit_inverse(evaluate, x, lambda x: self._search(x, context), solve_transposed)
        return y, -self._inverse_and_log_det(y, context)[1]

    def _condition(self, y: tf.Tensor, context) -> tf.Tensor:
        """Runs the network, once: the parameters `[..., num_params, d]`."""
        num_params, size = self._transformer.num_params, self._static_size(y)
        inputs = self._transformer.encode(y)
        output = self._network(inputs, 1, num_params * size, context, num_params)
        return split_params(output, num_params, size)

    def _static_size(self, value: tf.Tensor) -> int:
        if value.shape[-1] is None:
            raise ValueError(f"{self.name} needs a static event size, got {value.shape}.")
        return value.shape[-1]

    def _search(self, x: tf.Tensor, context) -> tf.Tensor:
        """The data of the latents `x`, without a gradient."""
        size = self._static_size(x)
        value, is_triangular = triangular_fixed_point(
            lambda y: self._transformer.forward(x, self._condition(y, context))[0], x
        )
        message = (
            f"{self.name}: the search for the data of given latents has not settled after "
            f"{size} passes, one for each entry. Conditioner {self._network!r} "
            "is not autoregressive (conditioners.made is)."
        )
        check = tf.debugging.Assert(tf.reduce_all(is_triangular), [message])
        with tf.control_dependencies([check]):  # XLA drops it; the value is NaN then
            return tf.identity(value)

    def diagnostics(self, y: tf.Tensor, context: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """What the transformer's parameters for the data `y` show; see `Affine`."""
        return self._transformer.diagnostics(self._condition(y, context), tf.ones_like(y))

    def _describe(self):
        return f"{self._network!r}, {self._transformer!r}"


class SplineAutoregressive(MaskedAutoregressive):
    r"""Transforms every entry by a monotone spline parameterised by the entries before it.

    $$ y_i = f^{-1}(x_i; \theta_i(y_{<i})), \qquad
       \log|\det J| = -\textstyle\sum_i \log f'(y_i; \theta_i(y_{<i})) $$

    A `MaskedAutoregressive` with `transformers.RationalQuadraticSpline`.

    Source: Neural Spline Flows, arXiv 1906.04032.

    Args:
      conditioner: as for `MaskedAutoregressive`, with `3 * bins - 1` parameters of each entry, such
        as `conditioners.made(d, 3 * bins - 1)`; see `RationalQuadraticSpline` for what they are.
      bins: how many bins each spline has.
      bound: half the side of the box of the splines. Data should lie mostly inside.
      min_bin_size: the least width and height of a bin, as a share of the box.
      min_slope: the least slope between two bins.
      name: name of the bijector.

    Raises:
      ValueError: if the conditioner's output has the wrong width, or an argument does not make a
        spline.
      tf.errors.InvalidArgumentError: from `forward`, if the conditioner is not autoregressive.

    Example:
      >>> from tfp_flows.conditioners import made
      >>> layer = SplineAutoregressive(made(2, 3 * 4 - 1, hidden=(8,)), bins=4)
      >>> y, log_det = layer.forward_and_log_det(tf.constant([[1.0, 2.0]]))
      >>> bool(tf.reduce_all(tf.abs(y - [[1.0, 2.0]]) < 1e-5))
      True
    """

    def __init__(
        self,
        conditioner: Any,
        bins: int = 8,
        bound: float = 3.0,
        min_bin_size: float = 1e-3,
        min_slope: float = 1e-3,
        name: str = "spline_autoregressive",
    ):
        parameters = dict(locals())
        spline = RationalQuadraticSpline(bins, bound, min_bin_size, min_slope)
        super().__init__(conditioner, spline, name, parameters)
