"""A flow as a table, layer by layer."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions


def summary_table(flow: tfd.Distribution) -> str:
    """Lists what data passes on its way to the latent, with shapes and parameter counts."""
    rows = [("data", type(flow).__name__, _text(flow.event_shape), "")]
    inner = getattr(flow, "flow", flow)
    bijector = getattr(inner, "bijector", None)
    if bijector is None:
        rows = [(flow.name, type(flow).__name__, _text(flow.event_shape), _count(flow))]
    else:
        encoder = getattr(inner, "context_encoder", None)
        if encoder is not None:
            kind = type(encoder.net).__name__
            rows.append(("context", kind, _text(inner.context_shape), _count(encoder)))
        rows += _rows(bijector, inner.event_shape, "")
        base = inner.distribution
        rows.append(("latent", type(base).__name__, _text(base.event_shape), _count(base)))
    header = ("layer (data to latent)", "type", "shape", "parameters")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(4)]
    lines = [
        "  ".join(
            cell.rjust(w) if i == 3 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
    rule = "-" * max(map(len, lines))
    trainable = sum(_size(v) for v in flow.trainable_variables)
    fixed = sum(_size(v) for v in flow.variables) - trainable
    total = f"{trainable:,} trainable parameters, {fixed:,} others"
    return "\n".join([lines[0], rule, *lines[1:], rule, total])


def _rows(bijector: tfb.Bijector, shape, indent: str, times: int = 1) -> list[tuple[str, ...]]:
    """One row a layer; containers are opened, level by level."""
    after = _text(bijector.inverse_event_shape(shape))
    name, kind = indent + bijector.name, type(bijector).__name__
    repeated = getattr(bijector, "step", None)
    if isinstance(repeated, tfb.Bijector):
        rows = _rows(repeated, shape, indent + "  ", times * bijector.count)
        return [(name, f"{kind} x {bijector.count}", after, ""), *rows]
    parts = getattr(bijector, "levels", None) or getattr(bijector, "bijectors", None)
    if not parts:
        return [(name, kind, after, _count(bijector, times))]
    rows = [(name, kind, after, "")]
    multiscale = hasattr(bijector, "levels")
    for i, part in enumerate(parts):
        rows += _rows(part, shape, indent + "  ", times)
        shape = part.inverse_event_shape(shape)
        if multiscale and i < len(parts) - 1:  # one half of the channels goes on
            shape = shape[:-1] + [shape[-1] // 2]
    return rows


def _text(shape) -> str:
    return str(tuple(tf.TensorShape(shape)))


def _size(variable: tf.Variable) -> int:
    return math.prod(variable.shape)


def _count(module: tf.Module, times: int = 1) -> str:
    return f"{times * sum(_size(v) for v in module.trainable_variables):,}"
