"""FrEIA."""

from __future__ import annotations

import math

import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import AffineCouplingOneSided, AllInOneBlock, IRevNetDownsampling, PermuteRandom
from torch import nn

from benchmarks.contenders.torch_base import MLP, ConvNet, TorchContender


class RealNVP(TorchContender):
    """One-sided couplings and fixed permutations: FrEIA mixes, where others swap halves."""

    def make(self):
        w = self.workload
        flow = SequenceINN(w.features)
        for i in range(w.layers):
            flow.append(
                AffineCouplingOneSided,
                subnet_constructor=lambda inputs, outputs: MLP(inputs, w.hidden, outputs),
            )
            flow.append(PermuteRandom, seed=i)
        return flow

    def log_prob_of(self, x):
        z, log_det = self.model(x)
        return _standard_normal(z) + log_det

    def draw(self):
        z = torch.randn_like(self.x)
        return self.model(z, rev=True)[0]


class Glow(TorchContender):
    """`AllInOneBlock` with its soft permutation: FrEIA's Glow step, whose rotation is fixed."""

    def make(self):
        w = self.workload
        size, _, channels = w.event_shape
        levels = []
        for _ in range(w.levels):
            level = SequenceINN(channels, size, size)
            level.append(IRevNetDownsampling)
            for _ in range(w.layers):
                level.append(
                    AllInOneBlock,
                    subnet_constructor=lambda inputs, outputs: ConvNet(inputs, w.hidden, outputs),
                    permute_soft=True,
                )
            levels.append(level)
            channels, size = channels * 2, size // 2
        return nn.ModuleList(levels)

    def log_prob_of(self, x):
        total = 0.0
        for level in self.model[:-1]:
            x, log_det = level(x)
            x, z = x.chunk(2, dim=1)
            total = total + log_det + _standard_normal(z)
        z, log_det = self.model[-1](x)
        return total + log_det + _standard_normal(z)

    def draw(self):
        _, channels, size, _ = self.x.shape
        levels = len(self.model)
        x = self._noise(channels * 2 ** (levels + 1), size >> levels)
        for i in reversed(range(levels)):
            x, _ = self.model[i](x, rev=True)
            if i:
                x = torch.cat([x, self._noise(channels * 2**i, size >> i)], dim=1)
        return x

    def _noise(self, channels: int, size: int) -> torch.Tensor:
        return torch.randn(self.workload.batch, channels, size, size, device=self.device)


def _standard_normal(z: torch.Tensor) -> torch.Tensor:
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
