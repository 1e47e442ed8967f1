"""Autoregressive bijectors: every entry is transformed given the entries before it.

Not `tfb.MaskedAutoregressiveFlow`: it runs its network twice for a log-prob, its masks are
constraints that Keras 3 optimizers ignore, and its cache outlives updates.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfp_flows.bijectors.spline import checked_settings
from tfp_flows.core import FlowBijector, Network
from tfp_flows.solvers.fixed_point import Step, triangular_fixed_point
from tfp_flows.solvers.implicit import implicit_inverse
from tfp_flows.transformers.affine import ScaleMap, get_scale_map
from tfp_flows.transformers.spline import Settings, spline


class _Autoregressive(FlowBijector):
    """What both share: the network, and the search for the data of given latents."""

    def __init__(self, conditioner, numbers: int, parameters, name):
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)
        self._network = Network(conditioner, name=f"{name}_conditioner")
        self._numbers = numbers

    @property
    def conditioner(self) -> Any:
        """The network, as it was given."""
        return self._network.net

    def _to_latent(self, y: tf.Tensor, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Each entry's latent and the log of its slope, given its numbers `[..., d, numbers]`."""
        raise NotImplementedError

    def _to_data(self, x: tf.Tensor, raw: tf.Tensor) -> tf.Tensor:
        """The inverse of `_to_latent`, the value alone."""
        raise NotImplementedError

    def _condition(self, y, context):
        """Runs the network, once."""
        size = y.shape[-1]
        if size is None:
            raise ValueError(f"{self.name} needs a static event size, got {y.shape}.")
        raw = self._network(y, 1, size * self._numbers, context, self._numbers)
        raw_shape = tf.concat([tf.shape(y), [self._numbers]], 0)
        return tf.ensure_shape(tf.reshape(raw, raw_shape), [*y.shape, self._numbers])

    def _check_size(self, value):
        if value.shape[-1] is None:
            raise ValueError(f"{self.name} needs a static event size, got {value.shape}.")

    def _inverse_and_log_det(self, y, context):
        self._check_size(y)
        x, log_slope = self._to_latent(y, self._condition(y, context))
        return x, tf.reduce_sum(log_slope, axis=-1)

    def _forward_and_log_det(self, x, context):
        self._check_size(x)
        slopes: list[tf.Tensor] = []  # the Jacobian's diagonal, at the root

        def evaluate(y):
            # What passes through the network makes the Jacobian's strictly triangular part, and
            # all that depends on variables and context; the diagonal is known anyway.
            raw = self._condition(y, context)
            latent, log_slope = self._to_latent(tf.stop_gradient(y), raw)
            slopes.append(tf.stop_gradient(tf.exp(log_slope)))
            return latent

        def solve(x):
            return self._searched(lambda y: self._to_data(x, self._condition(y, context)), x)

        def solve_transposed(triangular_vjp, d):
            slope = slopes[-1]
            return triangular_fixed_point(
                lambda u: (d - triangular_vjp(u)) / slope, d / slope
            ).value

        y = implicit_inverse(evaluate, x, solve, solve_transposed)
        return y, -self._inverse_and_log_det(y, context)[1]

    def _searched(self, step: Step, start: tf.Tensor) -> tf.Tensor:
        value, is_triangular = triangular_fixed_point(step, start)
        message = (
            f"{self.name}: the search for the data of given latents has not settled after "
            f"{start.shape[-1]} passes, one for each entry. Conditioner {self._network!r} "
            "is not autoregressive (conditioners.made is)."
        )
        check = tf.debugging.Assert(tf.reduce_all(is_triangular), [message])
        with tf.control_dependencies([check]):  # XLA leaves it out; the value is NaN then
            return tf.identity(value)

    def _describe(self):
        return repr(self._network)


class MaskedAutoregressive(_Autoregressive):
    r"""Scales and shifts every entry by functions of the entries before it.

    $$ y_i = x_i e^{s_i(y_{<i})} + t_i(y_{<i}), \qquad
       \log|\det J| = \textstyle\sum_i s_i(y_{<i}) $$

    From data to latent it takes one evaluation of the network. The other way, all entries are
    worked out again and again from those of the pass before, until nothing changes: after `k`
    passes the first `k` are right, and most often all are long before that.

    Source: Masked Autoregressive Flow for Density Estimation, arXiv 1705.07057. Under `fb.Invert`
    it is a layer of Improving Variational Inference with Inverse Autoregressive Flow, arXiv
    1606.04934, where sampling takes the one evaluation.

    Args:
      conditioner: a Keras layer, `tf.Module` or function, `[..., d] -> [..., d * 2]`, such as
        `conditioners.made(d, 2)`, or `-> [..., d, 2]`, such as TFP's
        `tfb.AutoregressiveNetwork(params=2)`. Its output is read as `[..., d, 2]`, shift `t` and
        raw scale of each entry, which must not depend on the entry itself nor on later ones, in
        whatever order.
      scale_map: raw scale -> `s`; see `AffineCoupling`.
      name: name of the bijector.

    Raises:
      ValueError: the conditioner's output has the wrong width, or an unknown scale map.
      tf.errors.InvalidArgumentError: from `forward`, where the conditioner is not autoregressive
        (under XLA, which has no such checks, all values are NaN then).

    Example:
      >>> running = lambda y: tf.stack([tf.cumsum(y, exclusive=True, axis=-1), 0.0 * y], -1)
      >>> net = lambda y: tf.reshape(running(y), [-1, 6])
      >>> MaskedAutoregressive(net).forward([[1.0, 1.0, 1.0]]).numpy()
      array([[1., 2., 4.]], dtype=float32)
    """

    def __init__(
        self,
        conditioner: Any,
        scale_map: str | ScaleMap = "exp_tanh",
        name: str = "masked_autoregressive",
    ):
        parameters = dict(locals())
        self._scale_map = get_scale_map(scale_map)
        super().__init__(conditioner, 2, parameters, name)

    def _to_latent(self, y, raw):
        shift, raw_scale = tf.unstack(raw, axis=-1)
        log_scale = self._scale_map(raw_scale)
        return (y - shift) * tf.exp(-log_scale), -log_scale

    def _to_data(self, x, raw):
        shift, raw_scale = tf.unstack(raw, axis=-1)
        return x * tf.exp(self._scale_map(raw_scale)) + shift


class SplineAutoregressive(_Autoregressive):
    r"""Bends every entry by a monotone spline that the entries before it choose.

    $$ y_i = f^{-1}(x_i; \theta_i(y_{<i})), \qquad
       \log|\det J| = -\textstyle\sum_i \log f'(y_i; \theta_i(y_{<i})) $$

    with the splines of `SplineCoupling`, and evaluations as in `MaskedAutoregressive`.

    Source: Neural Spline Flows, arXiv 1906.04032.

    Args:
      conditioner: as for `MaskedAutoregressive`, with `3 * bins - 1` numbers for each entry, such
        as `conditioners.made(d, 3 * bins - 1)`; see `SplineCoupling` for what they are.
      bins: how many bins each spline has.
      bound: half the side of the box where the splines live. Data should lie mostly inside.
      min_bin_size: the least width and height of a bin, as a share of the box.
      min_slope: the least slope between two bins.
      name: name of the bijector.

    Raises:
      ValueError: the conditioner's output has the wrong width, or a number that makes no spline.
      tf.errors.InvalidArgumentError: see `MaskedAutoregressive`.

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
        self._settings = checked_settings(Settings(bins, bound, min_bin_size, min_slope))
        super().__init__(conditioner, self._settings.numbers, parameters, name)

    def _to_latent(self, y, raw):
        return spline(y, raw, self._settings)

    def _to_data(self, x, raw):
        return spline(x, raw, self._settings, invert=True)[0]

    def _describe(self):
        return f"{super()._describe()}, {self._settings.bins} bins in {self._settings.bound:g}"
