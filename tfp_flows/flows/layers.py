"""Helpers that make the layers of ready-made flows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.core.random_values import spawned_seeds

tfb = tfp.bijectors


def check_counts(**counts: int) -> None:
    """Raises ValueError unless every count is 1 or more."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}.")


def vector_mask(features: int) -> str:
    """The mask of couplings over vectors: halves if the features can be halved.

    Raises:
      ValueError: if there is only one feature.
    """
    if features < 2:
        raise ValueError(
            "A coupling flow needs 2 features or more: it transforms some given the others."
        )
    return "alternate" if features % 2 else "half"


def identity_features(features: int, swap: bool) -> int:
    """The size of the identity part under `vector_mask` and `"alternate"`."""
    return features // 2 if swap else features - features // 2


def seeds_from(seed: int | None) -> Iterator[int | None]:
    """Seeds for the parts that start at random, one each; None for all of them if `seed` is."""
    return itertools.repeat(None) if seed is None else spawned_seeds(seed)


def mixing(channels: int, seeds: Iterator[int | None], dtype: tf.DType) -> list[tfb.Bijector]:
    """What comes before a coupling: ActNorm, and a linear map where there are channels to mix."""
    norm = fb.ActNorm(channels, dtype=dtype)
    if channels == 1:
        return [norm]
    return [norm, fb.Invertible1x1Conv(channels, next(seeds), dtype=dtype)]


def alternating(
    make_layer: Callable[[bool], list[tfb.Bijector]],
    layers: int,
    stacked: bool,
    reversible: bool,
) -> fb.Chain:
    """`layers` layers, in which the identity and the transformed part alternate.

    Args:
      make_layer: a function of `swap` that returns the bijectors of a layer.
      layers: number of layers.
      stacked: whether pairs of layers hold their variables stacked.
      reversible: see `ARGUMENTS`.
    """
    pairs = layers // 2 if stacked else 0
    steps: list[tfb.Bijector] = []
    if pairs:  # unrolled, since layers over vectors cost less than an iteration of a loop
        pair = fb.Chain(make_layer(False) + make_layer(True))
        steps.append(fb.Repeat(pair, pairs, reversible, unroll=True))
    for i in range(2 * pairs, layers):
        steps += make_layer(i % 2 == 1)
    return fb.Chain(steps, reversible and not pairs)


def as_units(hidden: Sequence[int] | int) -> tuple[int, ...]:
    """The units of an MLP's hidden layers."""
    return (hidden,) if isinstance(hidden, int) else tuple(hidden)


def as_filters(hidden: Sequence[int] | int) -> int:
    """The filters of a convolutional network, which are the same throughout.

    Raises:
      ValueError: if `hidden` holds different numbers.
    """
    units = as_units(hidden)
    if len(set(units)) != 1:
        raise ValueError(f"For images, hidden is one number of filters, got {hidden}.")
    return int(units[0])
