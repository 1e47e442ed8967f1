"""This package, with its defaults."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import tensorflow_probability as tfp

import tfp_flows as flows
from benchmarks.contenders.tf_base import DistributionContender
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp

tfd = tfp.distributions


class _Ours(DistributionContender):
    """Trains both ways: a bare compiled step, and Keras's `fit` with its defaults."""

    def operations(self):
        return super().operations() | {"fit": self.fit}

    def fit(self, n):
        """One epoch of `n` batches; what it prints is thrown away."""
        if not hasattr(self, "model"):
            self.model = flows.FlowModel(self.flow)
            self.model.compile(self.make_optimizer())
        x = np.tile(self.x.numpy(), [n] + [1] * len(self.workload.event_shape))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            history = self.model.fit(x, batch_size=self.workload.batch)
        return history.history["loss"][-1]


class RealNVP(_Ours):
    """Pairs of couplings that take turns, with the parameters of all pairs held together."""

    def make(self):
        w = self.workload
        pair = fb.Chain([self.coupling(swap=False), self.coupling(swap=True)])
        base = tfd.Sample(tfd.Normal(0.0, 1.0), w.features)
        self.flow = tfd.TransformedDistribution(base, fb.Repeat(pair, w.layers // 2, unroll=True))

    def coupling(self, swap: bool) -> fb.AffineCoupling:
        w = self.workload
        net = mlp(w.half, 2 * w.half, (w.hidden, w.hidden))
        return fb.AffineCoupling(net, mask="half", swap=swap)


class Spline(RealNVP):
    def coupling(self, swap: bool) -> fb.SplineCoupling:
        w = self.workload
        net = mlp(w.half, (3 * w.bins - 1) * w.half, (w.hidden, w.hidden))
        return fb.SplineCoupling(net, bins=w.bins, bound=w.bound, mask="half", swap=swap)


class Glow(_Ours):
    def make(self, **options):
        w = self.workload
        self.flow = flows.glow(
            w.event_shape, w.levels, w.layers, w.hidden, split_prior=False, **options
        )
        flows.initialize(self.flow, self.x)
