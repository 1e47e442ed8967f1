"""zuko."""

from __future__ import annotations

from functools import partial

import torch
from zuko.distributions import DiagNormal
from zuko.flows import Flow, UnconditionalDistribution
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.transforms import MonotonicRQSTransform

from benchmarks.contenders.torch_base import TorchContender


class RealNVP(TorchContender):
    def make(self):
        w = self.workload
        mask = torch.arange(w.features) < w.half
        parts = [
            GeneralCouplingTransform(
                w.features,
                mask=mask if i % 2 == 0 else ~mask,
                hidden_features=(w.hidden, w.hidden),
                **self.univariate(),
            )
            for i in range(w.layers)
        ]
        zeros, ones = torch.zeros(w.features), torch.ones(w.features)
        return Flow(parts, UnconditionalDistribution(DiagNormal, zeros, ones, buffer=True))

    def univariate(self) -> dict:
        """The transformation of a single entry; affine is zuko's default."""
        return {}

    def log_prob_of(self, x):
        return self.model().log_prob(x)

    def draw(self):
        return self.model().sample((self.workload.batch,))


class Spline(RealNVP):
    def univariate(self):
        bins = self.workload.bins
        return dict(
            univariate=partial(MonotonicRQSTransform, bound=self.workload.bound),
            shapes=[(bins,), (bins,), (bins - 1,)],
        )
