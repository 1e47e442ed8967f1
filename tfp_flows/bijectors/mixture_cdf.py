"""Coupling layers with the CDF of a mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.bijectors.coupling import _Coupling
from tfp_flows.transformers.affine import exp_tanh
from tfp_flows.transformers.mixture import Mixture, logit_cdf, quantile, read_mixture


class MixtureCDFCoupling(_Coupling):
    r"""Bends one part of the event by the CDFs of mixtures that the other part chooses.

    From data `y` to latent `x`, the way training goes, it is in closed form:

    $$ x_a = y_a, \qquad x_b = \operatorname{logit}\Big(\textstyle\sum_k \pi_k(y_a)\,
       \sigma\Big(\frac{y_b - \mu_k(y_a)}{s_k(y_a)}\Big)\Big) \odot e^{a(y_a)} + b(y_a) $$

    The way back searches for the root entry by entry, until rounding hides it, with the gradient
    of the implicit function theorem (of first order). `fb.Invert` exchanges the two directions.
    Where the conditioner gives zeros it is close to the identity.

    Source: Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv 1902.00275, section 3.2. In place of its bounds on the scales,
    `s` is within a factor `e^5` of its start, and `e^a` within `e^2` of 1, by smooth maps.

    Args:
      conditioner: as for `AdditiveCoupling`, `[..., n_kept] -> [..., n * (3 * components + 2)]`
        for `n` transformed entries in the last dimension. Its output is read as
        `[..., n, 3 * components + 2]`: for each entry in turn the logits of its weights, its
        means, its raw log-scales, the raw `a`, and `b`.
      mask: see `AdditiveCoupling`.
      swap: exchange the kept and the transformed part.
      components: how many logistic distributions each mixture has.
      event_ndims: see `AdditiveCoupling`.
      name: name of the bijector.

    Raises:
      ValueError: as for `AdditiveCoupling`; or a number of components below 1.
      tf.errors.InvalidArgumentError: (from latent to data) a search that does not end.

    Example:
      >>> coupling = MixtureCDFCoupling(lambda kept: tf.zeros([1, 3 * 4 + 2]), components=4)
      >>> y = coupling.forward([[1.0, 2.0]])
      >>> np.allclose(y, [[1.0, 2.0]], atol=0.3)
      True
      >>> np.allclose(coupling.inverse(y), [[1.0, 2.0]], atol=1e-5)
      True
    """

    def __init__(
        self,
        conditioner: Any,
        mask: str | np.ndarray = "half",
        swap: bool = False,
        components: int = 8,
        event_ndims: int | None = None,
        name: str = "mixture_cdf_coupling",
    ):
        parameters = dict(locals())
        if not isinstance(components, int | np.integer) or components < 1:
            raise ValueError(f"components must be a whole number of 1 or more, got {components!r}.")
        self._components = int(components)
        super().__init__(conditioner, mask, swap, event_ndims, parameters, name)

    def _couple(self, changed, parameters):
        mixture, log_scale, shift = self._read(parameters)
        logit = (tf.reshape(changed, [-1]) - shift) * tf.exp(-log_scale)
        value, log_slope = quantile(logit, mixture)
        return _like(changed, value, -log_slope - log_scale)

    def _uncouple(self, changed, parameters):
        mixture, log_scale, shift = self._read(parameters)
        logit, log_slope = logit_cdf(tf.reshape(changed, [-1]), mixture)
        return _like(changed, logit * tf.exp(log_scale) + shift, log_slope + log_scale)

    def _read(self, parameters) -> tuple[Mixture, tf.Tensor, tf.Tensor]:
        """The mixtures, and log-scale and shift of what comes out of them, `[entries]`."""
        (raw,) = parameters
        rows = tf.transpose(tf.reshape(raw, [-1, self._numbers]))
        return read_mixture(rows[:-2]), exp_tanh(rows[-2]), rows[-1]

    @property
    def _numbers(self) -> int:
        """How many numbers describe what becomes of an entry."""
        return 3 * self._components + 2

    def _condition(self, parts, kept, changed, context):
        # Kept entries need no zeros here: what becomes of them is dropped when merging.
        width = self._numbers * changed.shape[-1]
        return [self._network(kept, self.forward_min_event_ndims, width, context)]

    def _describe(self):
        return f"{super()._describe()}, {self._components} components"


def _like(changed: tf.Tensor, *rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return tuple(tf.reshape(row, tf.shape(changed)) for row in rows)
