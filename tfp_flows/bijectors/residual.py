"""Invertible residual layers."""

from __future__ import annotations

from typing import Any

from tfp_flows.core import FlowBijector, Network
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

    Sampling solves `y = x - g(y)` by iteration, and has the exact gradient of the solution.

    Source: Invertible Residual Networks, arXiv 1811.00995; Residual Flows for Invertible
    Generative Modeling, arXiv 1906.02735 (the unbiased log-det and its gradient).

    Args:
      conditioner: `g`: a Keras layer, `tf.Module` or function, `[..., d] -> [..., d]`, whose
        Lipschitz constant is below 1, as `conditioners.lipschitz_mlp` makes them.
      log_det: `"exact"`, from the whole Jacobian, for `d` up to some tens; or `"unbiased"`, an
        estimate at a cost that does not grow with `d`: the power series of the log-det, of
        random length, with random vectors for the traces. Its mean and that of its gradient are
        exact, so training may use it (that of its second derivatives is not); a likelihood
        to report is the mean over many examples or draws.
      seed: of the estimate. None draws anew in each call, which training needs. With a number
        every call repeats the draws, so that both directions agree: for evaluation.
      n_exact_terms: terms of the power series that every estimate includes.
      geom_p: the number of terms after them is geometric: after each term, the probability that
        it is the last one. The estimate's variance is finite where `1 - geom_p` is above the
        square of the Lipschitz constant.
      tolerance: sampling stops when no example moves by more in one step, relative to its
        largest entry (at least 1). 32 times the rounding error of the dtype if None.
      max_steps: of the iteration.
      name: name of the bijector.

    Raises:
      ValueError: an argument that makes no sense, or on the first call, a conditioner whose
        output has another width than its input.
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
        if n_exact_terms < 1 or max_steps < 1:
            raise ValueError(
                f"n_exact_terms and max_steps must be 1 or more, got {n_exact_terms} and "
                f"{max_steps}."
            )
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
        """The network, as it was given."""
        return self._network.net

    def _inverse_and_log_det(self, y, context):
        network = self._contraction(y, context)
        if self._log_det_kind == "exact":
            change, log_det = exact_log_det(network, y)
        else:
            change, log_det = unbiased_log_det(
                network, y, noise_seed(self, self._seed), self._n_exact_terms, self._geom_p
            )
        return y + change, log_det

    def _forward_and_log_det(self, x, context):
        network = self._contraction(x, context)
        tolerance = self._tolerance or 32.0 * rounding_unit(x.dtype)
        settings = (tolerance, self._max_steps, self.name)

        def search(x):
            with sharing():  # the first evaluation is outside of the loop
                return fixed_point(lambda y: x - network(y), x - network(x), *settings)

        y = implicit_inverse(
            lambda y: y + network(y),
            x,
            search,
            # u + J^T u = d; a gradient may be of any size, so there is no floor
            lambda vjp, d: fixed_point(lambda u: u + d - vjp(u), d, *settings, floor=0.0),
        )
        return y, -self._inverse_and_log_det(y, context)[1]

    def _contraction(self, value, context):
        size = value.shape[-1]
        if size is None:
            raise ValueError(f"{self.name} needs a static event size, got {value.shape}.")
        return lambda y: self._network(y, 1, size, context)

    def _describe(self):
        return f"{self._network!r}, {self._log_det_kind}"
