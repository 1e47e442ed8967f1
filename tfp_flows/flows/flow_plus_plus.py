"""Flow++: couplings by CDFs of mixtures, for vectors and for images."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp, resnet
from tfp_flows.distributions import Flow
from tfp_flows.flows.arguments import ready_made
from tfp_flows.flows.base import FlowBuilder
from tfp_flows.flows.image_scales import Image
from tfp_flows.flows.layers import (
    alternating,
    as_filters,
    as_units,
    check_counts,
    identity_features,
    mixing,
    seeds_from,
    vector_mask,
)
from tfp_flows.keras_engine import keras
from tfp_flows.transformers import LogisticMixtureCDF

tfb = tfp.bijectors


@ready_made
def flow_plus_plus(
    event_shape: Sequence[int],
    layers: int = 4,
    hidden: Sequence[int] | int | None = None,
    components: int = 8,
    couplings: Sequence[int] = (4, 2, 3),
    blocks: int = 2,
    activation: str = "relu",
    dropout: float = 0.0,
    network_dtype: str | None = None,
    stacked: bool = True,
    reversible: bool = False,
    data_bijector: tfb.Bijector | None = None,
    context_shape: Sequence[int] | int | None = None,
    standardize_context: bool = True,
    seed: int | None = None,
    dtype: tf.DType = tf.float32,
    name: str = "flow_plus_plus",
) -> Flow:
    """Flow++: couplings by CDFs of logistic mixtures, each after ActNorm and a 1x1 convolution.

    For vectors, `layers` couplings with MLPs. For images, in the paper's order from data to
    latent: checkerboard couplings, squeeze, channel couplings, checkerboard couplings, with
    residual networks, without the paper's self-attention and gates. Sampling searches for roots and
    is slower than training; see `fb.MixtureCDFCoupling`.

    For pixels, the other part of the paper is `flows.dequantizer`.

    Source: Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv 1902.00275.

    Args:
      event_shape: `(features,)`, or `(height, width, channels)` of even height and width.
      layers: number of couplings, for vectors.
      hidden: for vectors, the units of the hidden layers, (128, 128) if None; for images, the
        filters of the residual blocks, 32 if None.
      components: number of logistic distributions in each mixture.
      couplings: for images, how many before the squeeze, and after it on channels and on
        checkerboards.
      stacked: for vectors, whether layers hold their variables stacked, as `fb.Repeat` does, which
        makes optimizer updates cheap.
      seed: of the initial rotations; None: from TensorFlow's global generator.

    Raises:
      ValueError: if the event shape does not fit, as an image that cannot be squeezed.

    Example:
      >>> flow = flow_plus_plus(event_shape=(6,), layers=2, hidden=(16, 16), components=4)
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 6])
    """
    build = FlowBuilder(
        name,
        event_shape,
        dtype,
        data_bijector,
        context_shape,
        standardize_context,
        network_dtype,
        ranks=(1, 3),
    )
    check_counts(layers=layers, components=components, blocks=blocks)
    context, network_dtype = build.context, build.network_dtype
    seeds = seeds_from(seed)
    mixture = LogisticMixtureCDF(components)

    def after_mixing(net: keras.Model, size: int, mask: str, swap: bool) -> list[tfb.Bijector]:
        coupling = fb.Coupling(net, mixture, mask, swap)
        return [*mixing(size, seeds, build.dtype), coupling]

    if len(build.shape) == 1:
        (features,) = build.shape
        mask, units = vector_mask(features), as_units((128, 128) if hidden is None else hidden)

        def make_layer(swap: bool) -> list[tfb.Bijector]:
            identity = identity_features(features, swap)
            outputs = mixture.num_params * (features - identity)
            net = mlp(identity, outputs, units, activation, dropout, context, dtype=network_dtype)
            return after_mixing(net, features, mask, swap)

        return build.flow(alternating(make_layer, layers, stacked, reversible))

    filters = as_filters(32 if hidden is None else hidden)
    before, on_channels, after = _validated_couplings(couplings, build.shape, name)

    def make_couplings(image: Image, mask: str, count: int) -> list[tfb.Bijector]:
        h, w, c = image
        identity = c if mask == "checkerboard" else c // 2
        parts = []
        for i in range(count):
            net = resnet(
                (h, w, identity),
                mixture.num_params * identity,
                filters,
                blocks,
                activation,
                dropout,
                context,
                dtype=network_dtype,
            )
            parts += after_mixing(net, c, mask, swap=i % 2 == 1)
        return parts

    h, w, c = build.shape
    squeezed = (h // 2, w // 2, 4 * c)
    chain = fb.Chain(
        [
            *make_couplings(build.shape, "checkerboard", before),
            fb.Squeeze(),
            *make_couplings(squeezed, "channel", on_channels),
            *make_couplings(squeezed, "checkerboard", after),
        ],
        reversible,
    )
    return build.flow(fb.MultiScale([chain], build.shape))  # one scale: the latent is a vector


def _validated_couplings(couplings: Sequence[int], shape: Image, name: str) -> tuple[int, int, int]:
    counts = tuple(couplings)
    if len(counts) != 3 or min(counts) < 0 or sum(counts) == 0:
        raise ValueError(
            f"{name}: couplings says how many come before the squeeze, and after it on channels "
            f"and on checkerboards, as (4, 2, 3); got {couplings}."
        )
    h, w, _ = shape
    if h % 2 or w % 2:
        raise ValueError(
            f"{name} halves height and width, so both must be even; got {h}x{w}. Pad the images."
        )
    if counts[2] and h * w == 4:
        raise ValueError(
            f"{name}: one position of {h}x{w} images is left after the squeeze, which has no "
            "checkerboard. Give couplings=(4, 2, 0), or larger images."
        )
    return counts
