"""Invertible residual layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.evaluation import noise_seed, sharing
from tfp_flows.core.numerics import rounding_unit
from tfp_flows.solvers.fixed_point import fixed_point
from tfp_flows.solvers.implicit import implicit_inverse
from tfp_flows.solvers.log_det import exact_log_det, unbiased_log_det

_LOG_DETS = ("exact", "unbiased")


class Residual(FlowBijector):
    r"""From data `y` to latents `x = y + g(y)`, where the network `g` is a contraction.

    $$ f^{-1}(y) = y + g(y), \qquad
       \log|\det J_{f^{-1}}| = \log\det\left(I + \frac{\partial g}{\partial y}\right) $$

    `forward` solves `y = x - g(y)` by fixed-point iteration; its gradient is that of the solution,
    by implicit differentiation.

    Source: Invertible Residual Networks, arXiv 1811.00995; Residual Flows for Invertible
    Generative Modeling, arXiv 1906.02735 (the unbiased log-det and its gradient).

    Args:
      conditioner: `g`: a Keras layer, `tf.Module` or function, `[..., d] -> [..., d]`, with a
        Lipschitz constant below 1, such as `conditioners.lipschitz_mlp`.
      log_det: `"exact"`, from the whole Jacobian, for `d` up to some tens; or `"unbiased"`, an
        estimate whose cost does not grow with `d`: the power series of the log-det, truncated at
        random, with random vectors for the traces. The estimate and its gradient are unbiased, as
        training needs (second derivatives are not). To report a likelihood, average over many
        examples or draws.
      seed: of the estimate. None: new draws in each call, as training needs. An integer: the same
        draws in each call, so that both directions agree, for evaluation.
      n_exact_terms: terms of the power series that every estimate includes.
      geom_p: the number of terms after them is geometric: after each term, the probability that
        it is the last one. The variance is finite if `1 - geom_p` is above the square of the
        Lipschitz constant.
      tolerance: `forward` stops when no example moves by more in one step, relative to its
        largest entry (at least 1). None: 32 times the rounding unit of the dtype.
      max_steps: maximal number of steps of that iteration.
      name: name of the bijector.

    Raises:
      ValueError: if an argument is out of range; on the first call, if the output of
        `conditioner` does not have the width of its input.
      tf.errors.InvalidArgumentError: from `forward`, if the iteration does not converge.

    Example:
      >>> residual = Residual(lambda y: 0.5 * tf.sin(y))
      >>> x, log_det = residual.inverse_and_log_det(tf.constant([0.0, 0.0]))
      >>> float(log_det)  # 2 log(1.5)
      0.8109...
      >>> y = residual.forward([1.0, 2.0])
      >>> np.allclose(y + 0.5 * tf.sin(y), [1.0, 2.0], atol=1e-5)
      True
    """

    def __init__(
        self,
        conditioner: Any,
        log_det: str = "exact",
        seed: int | None = None,
        n_exact_terms: int = 4,
        geom_p: float = 0.15,
        tolerance: float | None = None,
        max_steps: int = 1000,
        name: str = "residual",
    ):
        parameters = dict(locals())
        if log_det not in _LOG_DETS:
            raise ValueError(f"log_det must be one of {_LOG_DETS}, got {log_det!r}.")
        for setting in ("n_exact_terms", "max_steps"):
            if parameters[setting] < 1:
                raise ValueError(f"{setting} must be 1 or more, got {parameters[setting]}.")
        if not 0 < geom_p < 1:
            raise ValueError(
                f"geom_p must be between 0 and 1, got {geom_p!r}. The variance is finite where "
                "1 - geom_p is above the square of the conditioner's Lipschitz constant."
            )
        if tolerance is not None and not tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {tolerance!r}.")
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)
        self._network = Network(conditioner, name=f"{name}_conditioner")
        self._log_det_kind = log_det
        self._seed = seed
        self._n_exact_terms = int(n_exact_terms)
        self._geom_p = float(geom_p)
        self._tolerance = tolerance
        self._max_steps = int(max_steps)

    @property
    def conditioner(self) -> Any:
        """The network, as given."""
        return self._network.net

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        network = self._contraction(y, context)
        if self._log_det_kind == "exact":
            change, log_det = exact_log_det(network, y)
        else:
            change, log_det = unbiased_log_det(
                network, y, noise_seed(self, self._seed), self._n_exact_terms, self._geom_p
            )
        return y + change, log_det

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        network = self._contraction(x, context)
        tolerance = self._tolerance or 32.0 * rounding_unit(x.dtype)
        settings = (tolerance, self._max_steps, self.name)

        def search(x):
            with sharing():  # kernels: the first evaluation, outside of the loop, computes them
                return fixed_point(lambda y: x - network(y), x - network(x), *settings)

        y = implicit_inverse(
            lambda y: y + network(y),
            x,
            search,
            # u + J^T u = d; a gradient may have any size, so there is no floor
            lambda vjp, d: fixed_point(lambda u: u + d - vjp(u), d, *settings, floor=0.0),
        )
        return y, -self._inverse_and_log_det(y, context)[1]

    def _contraction(self, value: tf.Tensor, context: Context) -> Callable[[tf.Tensor], tf.Tensor]:
        size = value.shape[-1]
        if size is None:
            raise ValueError(f"{self.name} needs a static event size, got {value.shape}.")
        return lambda y: self._network(y, 1, size, context)

    def _describe(self) -> str:
        return f"{self._network!r}, {self._log_det_kind}"
