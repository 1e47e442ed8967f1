"""flowjax."""

from __future__ import annotations

import equinox as eqx
import paramax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow
from jax import numpy as jnp

from benchmarks.contenders.jax_base import JaxContender


class RealNVP(JaxContender):
    """`coupling_flow`, flowjax's own, scanned over its layers."""

    transformer = None  # affine, its default

    def make(self, key):
        w = self.workload
        flow = coupling_flow(
            key,
            base_dist=Normal(jnp.zeros(w.features)),
            transformer=self.transformer,
            flow_layers=w.layers,
            nn_width=w.hidden,
            nn_depth=2,
        )
        # As flowjax's own `fit_to_data` does it: the base and the permutations are not trained.
        params, self.static = eqx.partition(
            eqx.tree_at(lambda f: f.base_dist, flow, replace_fn=paramax.non_trainable),
            eqx.is_inexact_array,
            is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
        )
        return params

    def flow(self, params):
        return paramax.unwrap(eqx.combine(params, self.static))

    def log_prob_of(self, params, x):
        return self.flow(params).log_prob(x)

    def draw(self, params, key):
        return self.flow(params).sample(key, (self.workload.batch,))


class Spline(RealNVP):
    def make(self, key):
        w = self.workload
        # The ends are knots too: `bins - 1` lie inside.
        self.transformer = RationalQuadraticSpline(knots=w.bins - 1, interval=w.bound)
        return super().make(key)
