"""Flow++: couplings by CDFs of mixtures, for vectors and for images."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import mlp, resnet
from tfp_flows.distributions import Flow
from tfp_flows.flows.base import (
    as_filters,
    as_units,
    check_context_shape,
    check_counts,
    check_dtype,
    check_event_shape,
    flow_of,
    kept_features,
    mixing,
    network_policy,
    ready_made,
    seeds_from,
    taking_turns,
    vector_mask,
)
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
    residual networks. The paper's self-attention and gates in these networks are left out.
    Sampling searches for roots and is slower than training; see `fb.MixtureCDFCoupling`.

    For pixels the paper's other part is `flows.dequantizer`.

    Source: Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv 1902.00275.

    Args:
      event_shape: `(features,)`, or `(height, width, channels)` of even height and width.
      layers: number of couplings, for vectors.
      hidden: for vectors, the units of the hidden layers, (128, 128) if None; for images, the
        filters of the residual blocks, 32 if None.
      components: logistic distributions in each mixture.
      couplings: for images, how many before the squeeze, and after it on channels and on
        checkerboards.
      blocks: residual blocks of each network, for images.
      activation: a Keras activation.
      dropout: rate in the networks, while training.
      network_dtype: dtype policy of the networks; None: Keras's if that is mixed, else the flow's;
        `"mixed_bfloat16"` computes them in low precision, the flow's arithmetic stays exact.
      stacked: for vectors, whether layers hold their parameters together (see `fb.Repeat`),
        which makes optimizer updates cheap.
      reversible: train by inversion; see `fb.Chain`. It rebuilds what is kept by searching.
      data_bijector: applied last, next to the data, to keep them within bounds, as
        `tfb.Sigmoid(low, high)` or `tfb.Exp()` do. Data on or beyond the bounds have no density;
        see `Flow`.
      context_shape: `(k,)` for a flow given vectors, which all networks see; see `Flow`.
      standardize_context: whether contexts are standardised by those that `flows.initialize` or the
        first `fit` sees; see `Flow`.
      seed: of the initial rotations.
      dtype: of the flow.
      name: name of the distribution.

    Raises:
      ValueError: an event shape that does not fit, as an image that cannot be squeezed.

    Example:
      >>> flow = flow_plus_plus(event_shape=(6,), layers=2, hidden=(16, 16), components=4)
      >>> flow.sample(3, seed=1).shape
      TensorShape([3, 6])
    """
    dtype = check_dtype(dtype, name)
    network_dtype = network_policy(network_dtype, dtype)
    shape = check_event_shape(event_shape, (1, 3), name, data_bijector)
    check_counts(layers=layers, components=components, blocks=blocks)
    context = check_context_shape(context_shape, (1,), name)
    seeds = seeds_from(seed)
    mixture = LogisticMixtureCDF(components)

    if len(shape) == 1:
        (features,) = shape
        mask = vector_mask(features)
        hidden = as_units((128, 128) if hidden is None else hidden)

        def make_layer(swap: bool) -> list[tfb.Bijector]:
            kept = kept_features(features, swap)
            outputs = mixture.num_params * (features - kept)
            net = mlp(kept, outputs, hidden, activation, dropout, context, dtype=network_dtype)
            return [
                *mixing(features, seeds, dtype),
                fb.Coupling(net, mixture, mask, swap),
            ]

        bijector = taking_turns(make_layer, layers, stacked, reversible)
        return flow_of(bijector, data_bijector, shape, dtype, context, standardize_context, name)

    filters = as_filters(32 if hidden is None else hidden)
    h, w, c = shape
    before, on_channels, after = _checked_couplings(couplings, shape, name)

    def steps(image: tuple[int, int, int], mask: str, count: int) -> list[tfb.Bijector]:
        h, w, c = image
        kept = c if mask == "checkerboard" else c // 2
        made = []
        for i in range(count):
            net = resnet(
                (h, w, kept),
                mixture.num_params * kept,
                filters,
                blocks,
                activation,
                dropout,
                context,
                dtype=network_dtype,
            )
            made += [
                *mixing(c, seeds, dtype),
                fb.Coupling(net, mixture, mask, swap=i % 2 == 1),
            ]
        return made

    squeezed = (h // 2, w // 2, 4 * c)
    chain = fb.Chain(
        [
            *steps(shape, "checkerboard", before),
            fb.Squeeze(),
            *steps(squeezed, "channel", on_channels),
            *steps(squeezed, "checkerboard", after),
        ],
        reversible,
    )
    bijector = fb.MultiScale([chain], shape)  # one level, which makes the latent a vector
    return flow_of(bijector, data_bijector, shape, dtype, context, standardize_context, name)


def _checked_couplings(
    couplings: Sequence[int], shape: tuple[int, int, int], name: str
) -> tuple[int, int, int]:
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
            f"{name}: of {h}x{w} images one position is left after the squeeze, and no "
            "checkerboard. Give couplings=(4, 2, 0), or larger images."
        )
    return counts
