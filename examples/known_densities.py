"""Two-dimensional densities in closed form, with samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class KnownDensity(NamedTuple):
    """A density with its truth."""

    sample: Callable[[int, int], np.ndarray]  # (n, seed) -> [n, 2]
    log_prob: Callable[[np.ndarray], np.ndarray]  # [n, 2] -> [n], in nats
    half_width: float  # of the square that holds it

    def entropy(self, n: int = 100_000) -> float:
        """Its entropy in nats, from `n` samples: a lower bound of every model's loss."""
        return float(-self.log_prob(self.sample(n, 1)).mean())


def _sample_checkerboard(n: int, seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    column, row = random.randint(0, 4, n), random.randint(0, 2, n)
    corner = np.stack([2 * column, 4 * row + 2 * (column % 2)], -1) - 4
    return (corner + random.uniform(0, 2, (n, 2))).astype(np.float32)


def _log_prob_of_checkerboard(x: np.ndarray) -> np.ndarray:
    square = np.floor(x / 2.0).astype(int)
    inside = (np.abs(x) < 4.0).all(-1) & (square.sum(-1) % 2 == 0)
    return np.where(inside, -np.log(32.0), -np.inf)  # eight squares of area 4


RADII, WIDTH = np.array([1.0, 2.0, 3.0]), 0.12


def _sample_rings(n: int, seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    radius = RADII[random.randint(0, len(RADII), n)] + WIDTH * random.normal(size=n)
    angle = random.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).astype(np.float32)


def _log_prob_of_rings(x: np.ndarray) -> np.ndarray:
    radius = np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)
    # Ignores negative radii, eight deviations away, which give the opposite point.
    each = -0.5 * ((radius - RADII) / WIDTH) ** 2 - np.log(WIDTH * np.sqrt(2 * np.pi))
    return np.log(np.exp(each).mean(-1) / (2 * np.pi * radius[:, 0]) + 1e-300)


DENSITIES = {
    "checkerboard": KnownDensity(_sample_checkerboard, _log_prob_of_checkerboard, 4.5),
    "rings": KnownDensity(_sample_rings, _log_prob_of_rings, 3.6),
}
