"""What initialisation does about contexts: it looks at their units, and sets them."""

from __future__ import annotations

import warnings

import numpy as np
import tensorflow as tf

from tfp_flows.distributions import Flow

FAR = 100.0  # a network gets slow to train where its inputs' size is off by more than this


def refuse_bad_contexts(flow: Flow, context) -> None:
    """Raises ValueError if the context does not fit, is empty, or holds NaN or infinity."""
    checked = flow.checked_context(context)
    if checked is None or not checked.dtype.is_floating:
        return
    rows = checked.numpy().reshape(-1, max(int(np.prod(flow.context_shape)), 1))
    if not len(rows):
        raise ValueError(f"initialize needs at least one context, got shape {checked.shape}.")
    bad = int((~np.isfinite(rows).all(axis=1)).sum())
    if bad:
        raise ValueError(
            f"initialize: {bad} of {len(rows)} contexts hold NaN or infinity"
            f"{_as_cast(context, checked)}. Look at the context: remove these examples, or fill "
            "the gaps."
        )


def warn_of_units(flow: Flow, context) -> None:
    """Warns of contexts that cannot be told apart, or that an encoder is given in odd units."""
    checked = flow.checked_context(context)
    if checked is None or not checked.dtype.is_floating:
        return
    channels = _channels(checked, flow)
    constant = (channels == channels[:1]).all(axis=0)
    given = np.asarray(context)
    if given.dtype != channels.dtype and given.dtype.kind in "iuf":
        lost = constant & (_channels(given, flow) != _channels(given, flow)[:1]).any(axis=0)
        if lost.any():
            _warn(
                f"{_named(lost)} of the context differs between examples as {given.dtype.name}, "
                f"but not in the flow's {channels.dtype.name}, so nothing can be learned of it. "
                "Subtract a reference value before it is cast."
            )
    if flow.context_units is not None:
        if flow.context_units.needs_initialization and constant.all():
            _warn(
                "all examples have the same context, so the spread of contexts is not known: they "
                "are standardised by their distance from this one, relative to its size. Give "
                "initialize the contexts of all examples, or build the flow with "
                "standardize_context=False."
            )
    elif flow.context_encoder is not None and flow.parameters["standardize_context"] is None:
        mean, spread = channels.mean(axis=0), channels.std(axis=0)
        odd = ~constant & ((spread < 1.0 / FAR) | (np.maximum(spread, np.abs(mean)) > FAR))
        if odd.any():
            at = int(np.argmax(odd))
            _warn(
                f"{_named(odd)} of the context goes to the context_encoder in units that networks "
                f"learn badly from: entry {at} has mean {mean[at]:.3g} and standard deviation "
                f"{spread[at]:.3g}. Build the flow with standardize_context=True, or with False if "
                "the encoder needs these values."
            )


def _channels(context, flow: Flow) -> np.ndarray:
    """The context's values, `[n, entries of the last axis]`."""
    shape = flow.context_shape
    return np.asarray(context).reshape(-1, shape[-1] if shape else 1)


def _named(entries: np.ndarray) -> str:
    places = np.flatnonzero(entries).tolist()
    more = ", ..." if len(places) > 5 else ""
    kind = "entry" if len(places) == 1 else "entries"
    return f"{kind} {', '.join(map(str, places[:5]))}{more} (counted from 0)"


def _as_cast(context, checked: tf.Tensor) -> str:
    given = np.asarray(context)
    if given.dtype.kind == "f" and np.isfinite(given).all():
        return f" once they are cast from {given.dtype.name} to {checked.dtype.name}"
    return ""


def _warn(message: str) -> None:
    warnings.warn(f"initialize: {message}", stacklevel=4)
