"""Data-dependent initialisation: explicit, once, all or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Chain
from tfp_flows.core import FlowBijector
from tfp_flows.core.protocol import any_waits
from tfp_flows.core.variables import restored_on_error
from tfp_flows.distributions import Dequantized
from tfp_flows.distributions.support import check_support

tfb, tfd = tfp.bijectors, tfp.distributions

OUTLIER = 1000.0  # times the median distance from the median


def needs_initialization(flow: tfd.Distribution) -> bool:
    """Whether a layer of `flow` still waits for `initialize`."""
    return any_waits(flow.submodules)


def count_bad_rows(batch: tf.Tensor) -> tf.Tensor:
    """How many examples of a floating-point batch hold NaN or infinity."""
    fine = tf.reduce_all(tf.math.is_finite(batch), axis=tf.range(1, tf.rank(batch)))
    return tf.math.count_nonzero(~fine)


def initialize(flow: tfd.Distribution, batch, context=None) -> None:
    """Walks a batch through the flow, from data to latent, and sets its ActNorm layers.

    Layers that are initialised already stay as they are. If anything goes wrong, the flow is
    left as it was.

    Args:
      flow: any flow of this package, or a `tfd.TransformedDistribution` around our bijectors.
      batch: data, `[n, *event_shape]`; some hundred examples are plenty.
      context: for flows that take one, `[n, *context_shape]`, or one for all.

    Raises:
      ValueError: the batch is empty, not finite, of the wrong shape, or holds data without
        density.

    Warns of values far from all others, which would decide the scale.

    Example:
      >>> import tfp_flows as flows
      >>> flow = flows.glow(event_shape=(4, 4, 1), levels=1, steps=1, hidden=8)
      >>> flows.initialize(flow, tf.random.normal([32, 4, 4, 1]))
      >>> needs_initialization(flow)
      False
    """
    if not isinstance(flow, tfd.Distribution):
        raise TypeError(
            f"initialize takes a distribution, got {type(flow).__name__}. Of a FlowModel give "
            "model.flow; a single ActNorm has a method initialize(batch) of its own."
        )
    if not tf.executing_eagerly():
        raise RuntimeError("initialize sets variables once: call it outside of any tf.function.")
    batch = tf.convert_to_tensor(batch)
    if batch.shape.rank != len(flow.event_shape) + 1:
        raise ValueError(
            f"initialize takes a batch of shape (n, *{tuple(flow.event_shape)}), got {batch.shape}."
        )
    if batch.shape[0] == 0:
        raise ValueError(f"initialize needs at least one example, got shape {batch.shape}.")
    if batch.dtype.is_floating:
        bad = int(count_bad_rows(batch))
        if bad:
            raise ValueError(
                f"initialize: {bad} of {batch.shape[0]} examples hold NaN or infinity. "
                "Remove them, or fill the gaps."
            )
    kwargs = {} if context is None else {"context": context}
    flow.log_prob(batch[:1], **kwargs)  # checks shape and dtype, and builds what is lazy
    check_support(batch, flow, "examples")
    if not needs_initialization(flow):
        return
    if batch.dtype.is_floating:
        _warn_of_outliers(batch.numpy().reshape(batch.shape[0], -1))
    with restored_on_error(flow.variables):
        for part, values, features in _walks(flow, batch, context):
            _as_flow_bijector(part)._initialize(tf.cast(values, part.dtype), features)
        if needs_initialization(flow):
            raise ValueError(
                f"A layer of {flow.name} cannot be reached from the data side, as inside "
                "tfb.Invert. Initialise it by itself: layer.initialize(batch)."
            )


def _warn_of_outliers(rows: np.ndarray) -> None:
    """Warns of values that would be all that an ActNorm sees."""
    away = np.abs(rows - np.median(rows, axis=0))
    far = away > OUTLIER * np.median(away, axis=0)
    far &= np.median(away, axis=0) > 0.0  # pixels that are nearly always black are no scale
    if far.any():
        row, feature = np.argwhere(far)[0]
        warnings.warn(
            f"initialize: {int(far.any(axis=1).sum())} of {len(rows)} examples hold values over "
            f"{OUTLIER:g} times as far from the median as usual, as {rows[row, feature]:g} in row "
            f"{row}. The flow is scaled after them, and learns the others badly. Remove them, or "
            "initialise on a batch without them.",
            stacklevel=3,
        )


def _walks(flow: tfd.Distribution, batch: tf.Tensor, context) -> Iterator[tuple]:
    """The flows in `flow` that wait, each with its data and what its conditioners get."""
    if isinstance(flow, Dequantized):
        noise = tf.random.uniform(tf.shape(batch), dtype=flow.flow.dtype)
        if flow.dequantizer is not None and needs_initialization(flow.dequantizer):
            inside = 0.001 + 0.998 * noise  # noise of exactly 0 may have no latent
            yield flow.dequantizer, inside, flow.dequantizer.encode_context(flow.middles(batch))
        flow, batch = flow.flow, flow.dequantize(batch, noise)
    if needs_initialization(flow):
        yield flow, batch, None if context is None else flow.encode_context(context)


def _as_flow_bijector(flow: tfd.Distribution) -> FlowBijector:
    bijector = getattr(flow, "bijector", None)
    if bijector is None:
        raise ValueError(
            f"{flow!r} has no bijector to initialise; initialise its parts one by one."
        )
    if isinstance(bijector, FlowBijector):
        return bijector
    return Chain(getattr(bijector, "bijectors", [bijector]))
