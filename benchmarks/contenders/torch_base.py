"""What all PyTorch contenders share: the loop that a user of PyTorch writes."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from benchmarks.contenders.base import Contender
from benchmarks.workloads import LEARNING_RATE


class TorchContender(Contender):
    """A subclass makes a module whose `forward` is the log-prob, and says how to sample."""

    def build(self, compiled: bool = False):
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        x = torch.as_tensor(self.workload.data(), device=self.device)
        self.x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x
        self.model = self.make().to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, fused=True)
        wrap = torch.compile if compiled else lambda f: f
        self._loss = wrap(lambda x: -self.log_prob_of(x).mean())
        self._log_prob = wrap(self.log_prob_of)
        self._sample = wrap(self.draw)

    @abstractmethod
    def make(self) -> nn.Module:
        """The flow."""

    @abstractmethod
    def log_prob_of(self, x: torch.Tensor) -> torch.Tensor:
        """Log-probabilities `[batch]`."""

    @abstractmethod
    def draw(self) -> torch.Tensor:
        """Samples `[batch, ...]`."""

    def parameters(self):
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def train(self, n):
        for _ in range(n):
            self.optimizer.zero_grad()
            loss = self._loss(self.x)
            loss.backward()
            self.optimizer.step()
        self._wait()
        return loss.item()

    @torch.no_grad()
    def log_prob(self, n):
        for _ in range(n):
            out = self._log_prob(self.x)
        self._wait()
        return float(out[0])

    @torch.no_grad()
    def sample(self, n):
        for _ in range(n):
            out = self._sample()
        self._wait()
        return float(out.flatten()[0])

    def device_memory(self, reset=False):
        if self.device == "cpu":
            return None
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()

    def _wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


class MLP(nn.Sequential):
    """Two hidden layers with relu; takes nflows' context, which is None here."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__(
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )
        self.hidden_features = hidden  # by whose root nflows and normflows scale spline bins

    def forward(self, x, context=None):
        return super().forward(x)


class ConvNet(nn.Sequential):
    """Glow's 3x3, 1x1, 3x3; takes nflows' context, which is None here."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__(
            nn.Conv2d(inputs, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, 3, padding=1),
        )
        nn.init.zeros_(self[-1].weight)
        nn.init.zeros_(self[-1].bias)

    def forward(self, x, context=None):
        return super().forward(x)
