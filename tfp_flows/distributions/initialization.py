"""Data-dependent initialisation: explicit, once, all or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Chain, Standardize
from tfp_flows.core import FlowBijector
from tfp_flows.core.init_state import init_states_in
from tfp_flows.core.variables import restored_on_error
from tfp_flows.distributions import Dequantized, Flow
from tfp_flows.distributions.data_checks import degeneracies, validate_contexts, warn_of_units
from tfp_flows.distributions.support import check_support

tfb, tfd = tfp.bijectors, tfp.distributions

OUTLIER = 1000.0  # times the median distance from the median


def needs_initialization(flow: tfd.Distribution) -> bool:
    """Whether a layer of `flow` still waits for `initialize`."""
    return any(start.is_pending() for start in init_states_in(flow.submodules))


def mark_initialized(flow: tfd.Distribution) -> None:
    """Declares a flow initialised as it is: neither `fit` nor `initialize` will set its layers.

    Use it for a flow that should not be scaled to data, as one that is trained without any. After
    training it is not needed: layers that were trained, assigned or loaded count as initialised.

    Args:
      flow: as for `initialize`.

    Example:
      >>> import tfp_flows as flows
      >>> flow = flows.iaf(event_shape=(2,), layers=1, hidden=(4,))
      >>> flows.mark_initialized(flow)
      >>> needs_initialization(flow)
      False
    """
    _check_distribution(flow, "mark_initialized")
    _mark(flow.submodules)


def _mark(modules: Iterable[tf.Module]) -> None:
    for start in init_states_in(modules):
        start.flag.assign(tf.ones_like(start.flag))


def _was_trained_elsewhere(flow: tfd.Distribution) -> bool:
    """Whether a layer has left its start though nothing has initialised it."""
    return any(not np.all(s.flag) and not s.is_pending() for s in init_states_in(flow.submodules))


def count_bad_rows(batch: tf.Tensor) -> tf.Tensor:
    """How many examples of a floating-point batch hold NaN or infinity."""
    fine = tf.reduce_all(tf.math.is_finite(batch), axis=tf.range(1, tf.rank(batch)))
    return tf.math.count_nonzero(~fine)


def initialize(flow: tfd.Distribution, batch, context=None) -> None:
    """Walks a batch through the flow, from data to latent, and sets its ActNorm layers.

    Before that the contexts, if the flow takes any, set what they are standardised by. Layers
    that are initialised already stay as they are, and so do layers whose variables have left their
    start: a flow that was trained by a loop of your own keeps what it has learnt, and its contexts
    stay as they are. See `mark_initialized` for a flow that is to stay at its start. If anything
    goes wrong, the flow is left as it was.

    Args:
      flow: any flow of this package, or a `tfd.TransformedDistribution` around our bijectors.
      batch: data, `[n, *event_shape]`; some hundred examples are plenty.
      context: for flows that take one, `[n, *context_shape]`, or one for all.

    Raises:
      ValueError: the batch or the context is empty, not finite, of the wrong shape, or the batch
        holds data without density.

    Warns of values far from all others, which would decide the scale; and of contexts in units that
    no training can cope with. For continuous flows over vectors, it also warns of data that have no
    density: columns that are constant, equal or linearly dependent, and repeated rows. Images are
    not checked, as pixels may well be constant.

    Example:
      >>> import tfp_flows as flows
      >>> flow = flows.glow(event_shape=(4, 4, 1), levels=1, steps=1, hidden=8)
      >>> flows.initialize(flow, tf.random.normal([32, 4, 4, 1]))
      >>> needs_initialization(flow)
      False
    """
    _check_distribution(flow, "initialize")
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
    continuous = flow.flow if isinstance(flow, Dequantized) else flow
    is_given = context is not None and isinstance(continuous, Flow)
    if is_given:
        validate_contexts(continuous, context)
    kwargs = {} if context is None else {"context": context}
    flow.log_prob(batch[:1], **kwargs)  # checks shape and dtype, and builds what is lazy
    check_support(batch, flow, "examples")
    if not needs_initialization(flow):
        return
    if batch.dtype.is_floating:
        _warn_of_outliers(batch.numpy().reshape(batch.shape[0], -1))
        _warn_of_no_density(flow, batch)
    if is_given:
        warn_of_units(continuous, context)
    with restored_on_error(flow.variables):
        if _was_trained_elsewhere(flow):
            _mark(m for m in flow.submodules if isinstance(m, Standardize))
        if is_given:
            continuous.initialize_context(context)
        dequantizer = getattr(flow, "dequantizer", None)
        if dequantizer is not None:
            dequantizer.initialize_context(flow.middles(batch))
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


def _warn_of_no_density(flow: tfd.Distribution, batch: tf.Tensor) -> None:
    """Warns, once for all that is found, of vectors on which any density grows without bound."""
    shape, bijector = flow.event_shape, getattr(flow, "bijector", None)
    if len(shape) != 1 or bijector is None:
        return
    # A bijector from fewer dimensions, as tfb.SoftmaxCentered, is made for dependent columns.
    if bijector.inverse_event_shape(shape).num_elements() != shape[0]:
        return
    found = degeneracies(batch.numpy(), tf.cast(batch, flow.dtype).numpy())
    if found:
        warnings.warn(
            f"initialize: data such as these {batch.shape[0]} examples have no density: "
            f"{'; '.join(found)}. The loss will fall without bound as the flow narrows around "
            "them. Remove such columns or rows, or add noise; whole numbers are for "
            "flows.Dequantized.",
            stacklevel=3,
        )


def _check_distribution(flow: tfd.Distribution, caller: str) -> None:
    if not isinstance(flow, tfd.Distribution):
        raise TypeError(
            f"{caller} takes a distribution, got {type(flow).__name__}. Of a FlowModel give "
            "model.flow; a single ActNorm has a method initialize(batch) of its own."
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
