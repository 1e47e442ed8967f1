"""nflows."""

from __future__ import annotations

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    CompositeTransform,
    MultiscaleCompositeTransform,
    OneByOneConvolution,
    PiecewiseRationalQuadraticCouplingTransform,
    SqueezeTransform,
)

from benchmarks.contenders.torch_base import MLP, ConvNet, TorchContender


class _Nflows(TorchContender):
    def log_prob_of(self, x):
        return self.model.log_prob(x)

    def draw(self):
        return self.model.sample(self.workload.batch)

    def halves(self, i: int) -> torch.Tensor:
        """The mask of coupling `i`: 1 where it transforms."""
        mask = torch.arange(self.workload.features) >= self.workload.half
        return (mask if i % 2 == 0 else ~mask).int()

    def mlp(self, inputs: int, outputs: int) -> MLP:
        return MLP(inputs, self.workload.hidden, outputs)


class RealNVP(_Nflows):
    def make(self):
        parts = [
            AffineCouplingTransform(self.halves(i), self.mlp) for i in range(self.workload.layers)
        ]
        return Flow(CompositeTransform(parts), StandardNormal([self.workload.features]))


class Spline(_Nflows):
    def make(self):
        w = self.workload
        parts = [
            PiecewiseRationalQuadraticCouplingTransform(
                self.halves(i), self.mlp, num_bins=w.bins, tails="linear", tail_bound=w.bound
            )
            for i in range(w.layers)
        ]
        return Flow(CompositeTransform(parts), StandardNormal([w.features]))


class Glow(_Nflows):
    def make(self):
        w = self.workload
        size, _, channels = w.event_shape
        multiscale = MultiscaleCompositeTransform(w.levels)
        for _ in range(w.levels):
            channels, size = channels * 4, size // 2
            parts = [SqueezeTransform()]
            for _ in range(w.layers):
                mask = torch.arange(channels) >= channels // 2
                parts += [
                    ActNorm(channels),
                    OneByOneConvolution(channels),
                    AffineCouplingTransform(
                        mask.int(), lambda inputs, outputs: ConvNet(inputs, w.hidden, outputs)
                    ),
                ]
            multiscale.add_transform(CompositeTransform(parts), (channels, size, size))
            channels //= 2
        return Flow(multiscale, StandardNormal([self.x[0].numel()]))
