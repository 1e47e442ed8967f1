"""normflows."""

from __future__ import annotations

import torch
from normflows import MultiscaleFlow, NormalizingFlow
from normflows import distributions as nfd
from normflows import flows as nff
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

from benchmarks.contenders.torch_base import MLP, TorchContender


class RealNVP(TorchContender):
    def make(self):
        w = self.workload
        parts = []
        for _ in range(w.layers):
            # Its own MLP has a leaky relu of slope 0, which `torch.compile` makes twice as slow.
            net = MLP(w.half, w.hidden, 2 * w.half)
            parts += [nff.AffineCouplingBlock(net), nff.Permute(w.features, mode="swap")]
        return NormalizingFlow(nfd.DiagGaussian(w.features, trainable=False), parts)

    def log_prob_of(self, x):
        return self.model.log_prob(x)

    def draw(self):
        return self.model.sample(self.workload.batch)[0]


class _SplineCoupling(PiecewiseRationalQuadraticCoupling):
    """The layer inside normflows' wrapper, whose own network is a residual one."""

    def forward(self, z, context=None):
        return super().inverse(z, context)

    def inverse(self, z, context=None):
        return super().forward(z, context)


class Spline(RealNVP):
    def make(self):
        w = self.workload
        mask = torch.arange(w.features) >= w.half
        parts = [
            _SplineCoupling(
                (mask if i % 2 == 0 else ~mask).int(),
                lambda inputs, outputs: MLP(inputs, w.hidden, outputs),
                num_bins=w.bins,
                tails="linear",
                tail_bound=w.bound,
            )
            for i in range(w.layers)
        ]
        return NormalizingFlow(nfd.DiagGaussian(w.features, trainable=False), parts)


class Glow(TorchContender):
    def make(self):
        w = self.workload
        size, _, channels = w.event_shape
        bases, levels, merges = [], [], []  # normflows counts levels from the latent side
        for level in range(w.levels):
            channels, size = channels * 4, size // 2
            steps = [nff.GlowBlock(channels, w.hidden) for _ in range(w.layers)]
            levels.insert(0, [*steps, nff.Squeeze()])
            last = level == w.levels - 1
            if not last:
                merges.insert(0, nff.Merge())
                channels //= 2
            shape = (channels, size, size)
            bases.insert(0, nfd.DiagGaussian(shape, trainable=False))
        return MultiscaleFlow(bases, levels, merges, class_cond=False)

    def log_prob_of(self, x):
        return self.model.log_prob(x, None)

    def draw(self):
        return self.model.sample(self.workload.batch)[0]
