"""The work that every contender does: sizes and data, the same for all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Workload:
    """One architecture and one batch.

    Attributes:
      layers: couplings; for images the steps of each level.
      hidden: units of both hidden layers, or filters.
    """

    name: str
    title: str
    event_shape: tuple[int, ...]
    batch: int
    layers: int
    hidden: int
    levels: int = 0
    bins: int = 0
    bound: float = 5.0  # of the splines, which are the identity outside [-bound, bound]

    @property
    def features(self) -> int:
        """Size of a vector event."""
        (features,) = self.event_shape
        return features

    @property
    def half(self) -> int:
        return self.features // 2

    def data(self) -> np.ndarray:
        """The one batch that everybody trains on, `[batch, *event_shape]`."""
        shape = (self.batch, *self.event_shape)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W1", "RealNVP, 64 features", (64,), batch=512, layers=8, hidden=128),
        Workload("W2", "Glow, 32x32x3", (32, 32, 3), batch=16, layers=8, hidden=128, levels=3),
        Workload("W3", "Spline coupling, 16 features", (16,), 512, layers=6, hidden=128, bins=8),
    )
}
TINY = {
    "W1": dict(event_shape=(4,), batch=8, layers=2, hidden=8),
    "W2": dict(event_shape=(8, 8, 1), batch=2, layers=1, hidden=8, levels=2),
    "W3": dict(event_shape=(4,), batch=8, layers=2, hidden=8),
}


def get_workload(workload: str, depth: int | None = None, tiny: bool = False) -> Workload:
    """A workload by name, at another depth or at a size that only shows that it runs."""
    work = replace(WORKLOADS[workload], **(TINY[workload] if tiny else {}))
    return work if depth is None else replace(work, layers=depth)
