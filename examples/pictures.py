"""Plots of results."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def _tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Joins images `[n, h, w, 1]` into one, with a thin line between them."""
    padded = np.pad(images[..., 0], ((0, 0), (0, 1), (0, 1)), constant_values=-1)
    rows = [
        np.concatenate(list(padded[i : i + columns]), 1) for i in range(0, len(padded), columns)
    ]
    return np.concatenate(rows, 0)


def _show(axis, images: np.ndarray, columns: int, levels: int, title: str) -> None:
    tiled = np.ma.masked_less(_tile(images, columns), 0)
    colours = plt.get_cmap("gray_r").with_extremes(bad="#d8dee9")
    axis.imshow(tiled, cmap=colours, vmin=0, vmax=levels - 1, interpolation="nearest")
    axis.set_title(title, fontsize=11)
    axis.axis("off")


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path


def save_samples(samples: np.ndarray, data: np.ndarray, levels: int, path: Path) -> Path:
    """Samples of the flow beside real images."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.8))
    _show(axes[0], samples, 8, levels, "samples of the flow (temperature 0.8)")
    _show(axes[1], data, 8, levels, "real images")
    return _save(figure, path)


def save_classes(samples: np.ndarray, columns: int, levels: int, path: Path) -> Path:
    """Samples of a conditional flow, one row a class."""
    figure, axis = plt.subplots(figsize=(7, 5.4))
    _show(axis, samples, columns, levels, "one row a class: samples given the class")
    return _save(figure, path)


def save_reconstructions(data: np.ndarray, decoded: np.ndarray, levels: int, path: Path) -> Path:
    """Images, and what is decoded from their latents, which must be equal."""
    figure, axes = plt.subplots(2, 1, figsize=(9, 2.6))
    _show(axes[0], data, len(data), levels, "test images")
    wrong = int((data != decoded).sum())
    _show(
        axes[1], decoded, len(data), levels, f"decoded from their latents ({wrong} pixels differ)"
    )
    return _save(figure, path)


def save_interpolation(images: np.ndarray, levels: int, path: Path) -> Path:
    """Rows that go from one test image to another through the latent space."""
    figure, axis = plt.subplots(figsize=(9, 4.8))
    _show(
        axis, images, 10, levels, "from one test image (left) to another (right), in latent space"
    )
    return _save(figure, path)


def save_curve(history: dict[str, list[float]], baseline: float, path: Path) -> Path:
    """Bits per dimension over the epochs."""
    train, validation = history["bits_per_dim"], history["val_bits_per_dim"]
    figure, axis = plt.subplots(figsize=(7, 4))
    axis.plot(np.arange(1, len(train) + 1), train, label="training (with dropout)")
    at = np.linspace(0, len(train), len(validation) + 1)[1:]
    axis.plot(at, validation, "o-", markersize=3, label="validation")
    axis.axhline(baseline, color="gray", linestyle="--", label="histogram of each pixel")
    low = min(train + validation)
    axis.set_ylim(low - 0.05, max(baseline, low) + 0.6)
    axis.set_xlabel("epoch")
    axis.set_ylabel("bits / dim")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def save_densities(densities: dict[str, np.ndarray], path: Path) -> Path:
    """Densities on a square grid, side by side, all in the colours of the first."""
    columns = 5
    rows = -(-len(densities) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.85 * rows), squeeze=False)
    top = 1.3 * next(iter(densities.values())).max()
    for axis, (title, density) in zip(axes.flat, densities.items(), strict=False):
        axis.imshow(density, cmap="magma", vmin=0.0, vmax=top)
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout()
    return _save(figure, path)


def save_posteriors(draws: dict[str, np.ndarray], x: str, y: str, path: Path) -> Path:
    """Points `[n, 2 or more]`, the first entry upwards, with a histogram of it beside."""
    figure, axes = plt.subplots(
        1, 2 * len(draws), figsize=(3.6 * len(draws), 4), width_ratios=[3, 1] * len(draws)
    )
    truth = next(iter(draws.values()))
    low, high = truth[:, 0].min(), truth[:, 0].max()
    width = np.quantile(np.abs(truth[:, 1]), 0.99)
    bins = np.linspace(low, high, 40)
    for points, share, (title, drawn) in zip(axes[::2], axes[1::2], draws.items(), strict=True):
        points.scatter(drawn[:, 1], drawn[:, 0], s=1, alpha=0.15, color="#2e5a88", linewidths=0)
        points.set(xlim=(-width, width), ylim=(low, high), title=title, xlabel=x)
        share.hist(drawn[:, 0], bins, density=True, orientation="horizontal", color="#9db8d2")
        share.hist(
            truth[:, 0], bins, density=True, orientation="horizontal", histtype="step", color="k"
        )
        share.set(ylim=(low, high), yticks=[], xticks=[])
        share.spines[["top", "right", "bottom", "left"]].set_visible(False)
        points.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(y)
    figure.tight_layout()
    return _save(figure, path)
