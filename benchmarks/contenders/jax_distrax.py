"""distrax, with a network in plain JAX: distrax has none of its own."""

from __future__ import annotations

import distrax
import jax
from jax import numpy as jnp

from benchmarks.contenders.jax_base import JaxContender, init_mlp, mlp


class RealNVP(JaxContender):
    width = 2  # parameters for each transformed entry

    def make(self, key):
        w = self.workload
        keys = jax.random.split(key, w.layers)
        return [init_mlp(k, w.half, w.hidden, self.width * w.half) for k in keys]

    def inner(self, raw):
        """The transformation of one half, from the network's output."""
        shift, log_scale = jnp.split(raw, 2, axis=-1)
        return distrax.ScalarAffine(shift, log_scale=log_scale)

    def flow(self, params):
        w = self.workload
        couplings = [
            distrax.SplitCoupling(
                w.half, 1, lambda x, net=net: mlp(net, x), self.inner, swap=i % 2 == 1
            )
            for i, net in enumerate(params)
        ]
        base = distrax.MultivariateNormalDiag(jnp.zeros(w.features), jnp.ones(w.features))
        # Inverted, as in distrax's own example: training goes the cheap way through the layers.
        return distrax.Transformed(base, distrax.Inverse(distrax.Chain(couplings)))

    def log_prob_of(self, params, x):
        return self.flow(params).log_prob(x)

    def draw(self, params, key):
        return self.flow(params).sample(seed=key, sample_shape=(self.workload.batch,))


class Spline(RealNVP):
    @property
    def width(self):
        return 3 * self.workload.bins + 1  # distrax has parameters for the slopes at the ends

    def inner(self, raw):
        raw = raw.reshape(*raw.shape[:-1], self.workload.half, self.width)
        bound = self.workload.bound
        return distrax.RationalQuadraticSpline(raw, -bound, bound, boundary_slopes="identity")
