"""Data-dependent initialisation: explicit, once, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Chain, Standardize
from tfp_flows.core import FlowBijector
from tfp_flows.core.init_state import init_states_in
from tfp_flows.core.variables import restored_on_error
from tfp_flows.distributions import Dequantized, Flow
from tfp_flows.distributions.data_checks import (
    count_bad_rows,
    validate_contexts,
    warn_about_contexts,
    warn_about_data,
)
from tfp_flows.distributions.support import check_support

tfd = tfp.distributions


def needs_initialization(flow: tfd.Distribution) -> bool:
    """Whether a layer of `flow` still waits for `initialize`."""
    return any(state.is_pending() for state in init_states_in(flow.submodules))


def mark_initialized(flow: tfd.Distribution) -> None:
    """Marks a flow as initialised as it is: neither `fit` nor `initialize` will set its layers.

    Use it for a flow that should not be scaled to data, such as one that is trained without any.
    It is not needed after training: layers that were trained, assigned or loaded count as
    initialised.

    Args:
      flow: any flow of this package, or a `tfd.TransformedDistribution` around our bijectors.

    Raises:
      TypeError: if `flow` is not a distribution.

    Example:
      >>> import tfp_flows as flows
      >>> flow = flows.iaf(event_shape=(2,), layers=1, hidden=(4,))
      >>> flows.mark_initialized(flow)
      >>> needs_initialization(flow)
      False
    """
    _validate_distribution(flow, "mark_initialized")
    _mark(flow.submodules)


def initialize(flow: tfd.Distribution, batch: Any, context: Any = None) -> None:
    """Passes a batch through the flow, from data to latents, and sets its ActNorm layers.

    Before that, contexts set the constants by which they are standardised. Layers that are
    initialised already stay unchanged, and so do layers whose variables have left their initial
    values: a flow that was trained in a loop of your own keeps what it has learnt, and its
    contexts are not standardised. See `mark_initialized` for a flow that is to keep its initial
    values. If there is an error, the flow is left unchanged.

    Args:
      flow: any flow of this package, or a `tfd.TransformedDistribution` around our bijectors.
      batch: data, `[n, *event_shape]`; a few hundred examples are enough.
      context: for flows that take one, `[n, *context_shape]`, or one for all examples.

    Raises:
      TypeError: if `flow` is not a distribution.
      RuntimeError: if it is called in a graph.
      ValueError: if the batch or the context is empty, not finite or of the wrong shape, or if the
        batch holds values outside the flow's support.

    Warns of values far from all others, which would determine the scale, and of contexts in units
    that networks cannot be trained on. For continuous flows over vectors, it also warns of data
    without a density: columns that are constant, equal or linearly dependent, and repeated rows.
    Images are not checked, since pixels may well be constant.

    Example:
      >>> import tfp_flows as flows
      >>> flow = flows.glow(event_shape=(4, 4, 1), levels=1, steps=1, hidden=8)
      >>> flows.initialize(flow, tf.random.normal([32, 4, 4, 1]))
      >>> needs_initialization(flow)
      False
    """
    _validate_distribution(flow, "initialize")
    if not tf.executing_eagerly():
        raise RuntimeError("initialize sets variables once: call it outside of any tf.function.")
    batch = tf.convert_to_tensor(batch)
    _validate_batch(batch, flow)
    continuous = flow.flow if isinstance(flow, Dequantized) else flow
    is_conditional = context is not None and isinstance(continuous, Flow)
    if is_conditional:
        validate_contexts(continuous, context)
    kwargs = {} if context is None else {"context": context}
    flow.log_prob(batch[:1], **kwargs)  # validates shape and dtype, and builds what is lazy
    check_support(batch, flow, "examples")
    if not needs_initialization(flow):
        return
    if batch.dtype.is_floating:
        warn_about_data(flow, batch)
    if is_conditional:
        warn_about_contexts(continuous, context)
    with restored_on_error(flow.variables):
        if _was_trained_elsewhere(flow):
            _mark(m for m in flow.submodules if isinstance(m, Standardize))
        if is_conditional:
            continuous.initialize_context(context)
        dequantizer = getattr(flow, "dequantizer", None)
        if dequantizer is not None:
            dequantizer.initialize_context(flow.bin_centers(batch))
        for part, values, features in _parts_and_data(flow, batch, context):
            _as_flow_bijector(part)._initialize(tf.cast(values, part.dtype), features)
        if needs_initialization(flow):
            raise ValueError(
                f"A layer of {flow.name} cannot be reached from the data side, as inside "
                "tfb.Invert. Initialise it by itself: layer.initialize(batch)."
            )


def _validate_distribution(flow: Any, caller: str) -> None:
    if not isinstance(flow, tfd.Distribution):
        raise TypeError(
            f"{caller} takes a distribution, got {type(flow).__name__}. Of a FlowModel give "
            "model.flow; a single ActNorm has a method initialize(batch) of its own."
        )


def _validate_batch(batch: tf.Tensor, flow: tfd.Distribution) -> None:
    if batch.shape.rank != len(flow.event_shape) + 1:
        raise ValueError(
            f"initialize takes a batch of shape (n, *{tuple(flow.event_shape)}), got {batch.shape}."
        )
    if batch.shape[0] == 0:
        raise ValueError(f"initialize needs at least one example, got shape {batch.shape}.")
    bad = int(count_bad_rows(batch)) if batch.dtype.is_floating else 0
    if bad:
        raise ValueError(
            f"initialize: {bad} of {batch.shape[0]} examples hold NaN or infinity. "
            "Remove them, or fill the gaps."
        )


def _mark(modules: Iterable[tf.Module]) -> None:
    for state in init_states_in(modules):
        state.flag.assign(tf.ones_like(state.flag))


def _was_trained_elsewhere(flow: tfd.Distribution) -> bool:
    """Whether a layer has left its initial values though nothing has initialised it."""
    return any(not np.all(s.flag) and not s.is_pending() for s in init_states_in(flow.submodules))


def _parts_and_data(flow: tfd.Distribution, batch: tf.Tensor, context: Any) -> Iterator[tuple]:
    """The flows in `flow` that wait, each with its data and the features of its context."""
    if isinstance(flow, Dequantized):
        noise = tf.random.uniform(tf.shape(batch), dtype=flow.flow.dtype)
        if flow.dequantizer is not None and needs_initialization(flow.dequantizer):
            inside = 0.001 + 0.998 * noise  # noise of exactly 0 may have no latent
            yield flow.dequantizer, inside, flow.dequantizer.encode_context(flow.bin_centers(batch))
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
