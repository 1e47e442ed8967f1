"""What the ready-made flows share."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.core import FlowBijector, private
from tfp_flows.core.random_values import spawned_seeds
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import IS_LEGACY, keras

tfb, tfd = tfp.bijectors, tfp.distributions

FLOW_DTYPES = (tf.float16, tf.float32, tf.float64)  # bfloat16 has too few digits for an inverse


def ready_made(make: Callable[..., Flow]) -> Callable[..., Flow]:
    """Decorates a function that makes flows: its default `name` is their kind, not their name."""
    kind = inspect.signature(make).parameters["name"].default

    @functools.wraps(make)
    def make_flow(*args, **kwargs) -> Flow:
        flow = make(*args, **kwargs)
        return flow.copy(name=None, kind=kind) if flow.name == kind else flow

    return make_flow


def check_dtype(dtype: tf.DType, name: str) -> tf.DType:
    """Returns the dtype of a flow.

    Raises:
      ValueError: a flow cannot compute in it.
    """
    dtype = tf.as_dtype(dtype)
    if dtype not in FLOW_DTYPES:
        raise ValueError(
            f"{name} computes in {', '.join(t.name for t in FLOW_DTYPES)}, got {dtype.name}. For "
            'speed give network_dtype="mixed_bfloat16": networks in low precision, an exact flow.'
        )
    return dtype


def check_event_shape(
    event_shape: Sequence[int],
    ranks: tuple[int, ...],
    name: str,
    data_bijector: tfb.Bijector | None = None,
) -> tuple:
    """Returns the shape of the events that the layers see, as a tuple of ints.

    That is the event shape, unless a data bijector has latents of another shape than its data.

    Raises:
      TypeError: the data bijector is not an injective `tfb.Bijector`.
      ValueError: it has another rank than the flow can take, or a size below 1.
    """
    shape = (event_shape,) if isinstance(event_shape, int) else tuple(int(n) for n in event_shape)
    if data_bijector is not None:
        if not (isinstance(data_bijector, tfb.Bijector) and private.is_injective(data_bijector)):
            raise TypeError(
                f"{name}: data_bijector must be an injective tfb.Bijector, as tfb.Sigmoid() for "
                f"data in (0, 1); got {data_bijector!r}."
            )
        shape = tuple(data_bijector.inverse_event_shape(tf.TensorShape(shape)))
    if len(shape) not in ranks or min(shape) < 1:
        wanted = " or ".join({1: "(features,)", 3: "(height, width, channels)"}[r] for r in ranks)
        raise ValueError(f"{name} needs event_shape {wanted}, got {tuple(shape)}.")
    return shape


def next_to_data(
    bijector: tfb.Bijector,
    data_bijector: tfb.Bijector | None,
    shape: tuple[int, ...],
    dtype: tf.DType,
    name: str,
) -> tfb.Bijector:
    """The bijector of a flow whose data are bounded: `data_bijector` comes last, next to the data.

    Args:
      bijector: the layers.
      data_bijector: from what the layers give to the data, or None.
      shape: of the events that the layers see; see `check_event_shape`.
      dtype: of the flow.
      name: of the flow, for messages.

    Raises:
      ValueError: the data bijector does not compute in this dtype.
    """
    if data_bijector is None:
        return bijector
    if not any(isinstance(m, FlowBijector) for m in (data_bijector, *data_bijector.submodules)):
        try:
            found = data_bijector.forward(tf.zeros([1, *shape], dtype)).dtype
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"{name} computes in {dtype.name}, and data_bijector {data_bijector!r} cannot take "
                f"events of shape {shape} in it: {error}"
            ) from error
        if found != dtype:
            raise ValueError(f"{name}: data_bijector gives {found.name}, not {dtype.name}.")
    return fb.Chain([data_bijector, bijector])


def flow_of(
    layers: tfb.Bijector,
    data_bijector: tfb.Bijector | None,
    shape: tuple[int, ...],
    dtype: tf.DType,
    context_shape: tuple[int, ...] | None,
    standardize_context: bool,
    name: str,
    base: tfd.Distribution | None = None,
) -> Flow:
    """The flow of these layers, whose base is standard normal unless one is given.

    Args:
      layers: the bijector, from latents to what `data_bijector` takes.
      data_bijector, shape, dtype, name: see `next_to_data`.
      context_shape, standardize_context: see `Flow`.
      base: the distribution of the latents.
    """
    base = standard_normal(math.prod(shape), dtype) if base is None else base
    bijector = next_to_data(layers, data_bijector, shape, dtype, name)
    return Flow(base, bijector, context_shape, standardize_context=standardize_context, name=name)


def standard_normal(size: int, dtype: tf.DType) -> tfd.Distribution:
    """Independent standard normals over a vector."""
    zero, one = tf.zeros([], dtype), tf.ones([], dtype)
    return tfd.Sample(tfd.Normal(zero, one), size, name="base")


def network_policy(asked: str | None, dtype: tf.DType) -> str:
    """The dtype policy of a flow's networks: what was asked for, or Keras's own, or the flow's.

    Keras's own counts where it is a mixed one whose variables have the flow's dtype, as after
    `keras.mixed_precision.set_global_policy("mixed_bfloat16")`.
    """
    if asked is not None:
        return asked
    current = keras.mixed_precision.global_policy() if IS_LEGACY else keras.config.dtype_policy()
    return current.name if current.variable_dtype == dtype.name else dtype.name


def vector_mask(features: int) -> str:
    """Halves where the features can be halved, else every other one."""
    if features < 2:
        raise ValueError(
            "A coupling flow needs 2 features or more: it transforms some given the others."
        )
    return "alternate" if features % 2 else "half"


def identity_features(features: int, swap: bool) -> int:
    """How many features `vector_mask` and `"alternate"` keep."""
    return features // 2 if swap else features - features // 2


def check_counts(**counts: int) -> None:
    """Raises ValueError unless every count is 1 or more."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}.")


def check_context_shape(
    context_shape: Sequence[int] | int | None, ranks: tuple[int, ...], name: str
) -> tuple[int, ...] | None:
    """Returns the shape of one example's context as a tuple of ints, or None.

    Raises:
      ValueError: it has a rank that the flow's networks cannot take, or a size below 1.
    """
    if context_shape is None:
        return None
    shape = (context_shape,) if isinstance(context_shape, int) else tuple(map(int, context_shape))
    if len(shape) not in ranks or min(shape) < 1:
        raise ValueError(
            f"{name} takes contexts of rank {' or '.join(map(str, ranks))}, as context_shape=(k,), "
            f"got {shape}. For labels see flows.with_labels."
        )
    return shape


def seeds_from(seed: int | None) -> Iterator[int | None]:
    """A seed of its own for each part that starts at random; None for all if there is none."""
    return itertools.repeat(None) if seed is None else spawned_seeds(seed)


def mixing(channels: int, seeds: Iterator[int | None], dtype: tf.DType) -> list[tfb.Bijector]:
    """What comes before a coupling; a single channel has nothing to mix with."""
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
    """`layers` layers that swap the two parts of the event at every turn.

    Args:
      make_layer: swap -> bijectors.
      layers: how many.
      stacked: whether pairs of them hold their parameters together.
      reversible: see `fb.Chain`.
    """
    pairs = layers // 2 if stacked else 0
    steps: list[tfb.Bijector] = []
    if pairs:  # steps of vectors are small: the bookkeeping of a loop would show
        pair = fb.Chain(make_layer(False) + make_layer(True))
        steps.append(fb.Repeat(pair, pairs, reversible, unroll=True))
    for i in range(2 * pairs, layers):
        steps += make_layer(i % 2 == 1)
    return fb.Chain(steps, reversible and not pairs)


def as_units(hidden: Sequence[int] | int) -> tuple[int, ...]:
    """The units of an MLP's hidden layers."""
    return (hidden,) if isinstance(hidden, int) else tuple(hidden)


def as_filters(hidden: Sequence[int] | int) -> int:
    """The filters of a convolutional network, which are the same throughout."""
    units = as_units(hidden)
    if len(set(units)) != 1:
        raise ValueError(f"For images, hidden is one number of filters, got {hidden}.")
    return int(units[0])
