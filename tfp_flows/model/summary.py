"""A flow layer by layer: as a table, and as Keras's callbacks expect its variables."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import variable_paths
from tfp_flows.model.data_checks import continuous_part

tfb, tfd = tfp.bijectors, tfp.distributions


def summary_table(flow: tfd.Distribution) -> str:
    """A table of the layers from data to latent, with shapes and parameter counts."""
    rows = [("data", type(flow).__name__, _text(flow.event_shape), "")]
    inner = continuous_part(flow)
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


def _rows(
    bijector: tfb.Bijector, shape: tf.TensorShape, indent: str, times: int = 1
) -> list[tuple[str, ...]]:
    """One row for each layer, indented within containers."""
    after = _text(bijector.inverse_event_shape(shape))
    name, kind = indent + bijector.name, type(bijector).__name__
    repeated = getattr(bijector, "bijector", None)
    if isinstance(repeated, tfb.Bijector) and hasattr(bijector, "count"):
        rows = _rows(repeated, shape, indent + "  ", times * bijector.count)
        return [(name, f"{kind} x {bijector.count}", after, ""), *rows]
    parts = getattr(bijector, "scales", None) or getattr(bijector, "bijectors", None)
    if not parts:
        return [(name, kind, after, _count(bijector, times))]
    rows = [(name, kind, after, "")]
    multiscale = hasattr(bijector, "scales")
    for i, part in enumerate(parts):
        rows += _rows(part, shape, indent + "  ", times)
        shape = part.inverse_event_shape(shape)
        if multiscale and i < len(parts) - 1:  # half of the channels goes to the next part
            shape = shape[:-1] + [shape[-1] // 2]
    return rows


def _text(shape: tf.TensorShape) -> str:
    return str(tuple(tf.TensorShape(shape)))


def _size(variable: tf.Variable) -> int:
    return math.prod(variable.shape)


def _count(module: tf.Module, times: int = 1) -> str:
    return f"{times * sum(_size(v) for v in module.trainable_variables):,}"


class VariableView:
    """A variable under the name that it has in files, with `/` before its last part."""

    def __init__(self, name: str, variable: tf.Variable):
        self.name = self.path = name
        self.shape, self.dtype = variable.shape, variable.dtype
        self._variable = variable

    def __tf_tensor__(self, dtype=None, name=None) -> tf.Tensor:
        return tf.convert_to_tensor(self._variable, dtype, name=name)

    def __array__(self, dtype=None, copy=None):
        return self._variable.numpy().astype(dtype or self.dtype.as_numpy_dtype)

    def numpy(self):
        """The value as an array."""
        return self._variable.numpy()


class LayerView(NamedTuple):
    """The variables that share all but the last part of their names."""

    name: str
    weights: list[VariableView]


def layer_views(flow: tfd.Distribution) -> list[LayerView]:
    """All floating-point variables of `flow`, layer by layer."""
    layers: dict[str, LayerView] = {}
    for path, variable in variable_paths(flow).items():
        if variable.dtype.is_floating:
            layer, _, own = path.rpartition(".")
            view = VariableView(f"{layer}/{own}", variable)
            layers.setdefault(layer, LayerView(layer, [])).weights.append(view)
    return list(layers.values())
