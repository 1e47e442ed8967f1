"""What a probe batch shows of a flow, layer by layer from data to latent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import Chain
from tfp_flows.core import FlowBijector, variable_paths
from tfp_flows.core.layers import layers_of, visit_layers
from tfp_flows.distributions import Dequantized

tfb, tfd = tfp.bijectors, tfp.distributions


def measure_layers(flow: tfd.Distribution, x: tf.Tensor, context=None) -> list[dict[str, Any]]:
    """Takes a batch through every layer of a flow, from data to latent, and measures on the way.

    Containers are opened as `FlowBijector.layers` says. The walk ends at a layer whose own checks
    fail, as where NaN keeps a search from converging; none of its examples counts as finite.

    Args:
      flow: a distribution with a bijector, or `Dequantized` around one, which then sees the
        middle of each pixel's bin.
      x: examples, `[n, *event_shape]`.
      context: for a conditional flow, `[n, *context_shape]`.

    Returns:
      One dict a layer: its path as `layer`, its `type`, and numbers, None for one that is not
      finite:

      * `not_finite`: for how many examples the latent or the log-det is not finite,
      * `round_trip`: the largest error of `forward(inverse(y))`, over the largest entry of `y`;
        not for a bijector without `forward`,
      * `log_det_min`, `log_det_max`: the log-det from data to latent, in nats per entry of the
        event, without the layer's `unit_log_det`,
      * the other `FlowBijector.diagnostics` of the layer.

    Raises:
      TypeError: if the distribution has no bijector.
    """
    if not hasattr(getattr(flow, "flow", flow), "bijector"):
        raise TypeError(f"{flow!r} has no bijector, so it has no layers to measure.")
    layers: list[tuple[str, tfb.Bijector]] = []
    found: list[dict[str, tf.Tensor]] = []
    try:
        for path, bijector, y, features in _bijectors(flow, x, context):
            layers += layers_of(bijector, path)
            visit_layers(bijector, y, features, _measure, found)
    except tf.errors.InvalidArgumentError:
        found.append({"not_finite": tf.constant(len(x))})
    return [
        {"layer": path, "type": type(layer).__name__}
        | {name: _plain(value) for name, value in measures.items()}
        for (path, layer), measures in zip(layers, found, strict=False)
    ]


def _measure(b: tfb.Bijector, y: tf.Tensor, context) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The latents of `y`, and what is measured of one layer."""
    layer = b if isinstance(b, FlowBijector) else Chain([b])
    x, log_det = layer.inverse_and_log_det(y, y.shape.rank - 1, context)
    log_det = tf.broadcast_to(log_det, tf.shape(y)[:1])
    finite = tf.reduce_all(tf.math.is_finite(tf.reshape(x, [tf.shape(x)[0], -1])), axis=1)
    measures = {"not_finite": tf.math.count_nonzero(~(finite & tf.math.is_finite(log_det)))}
    try:
        back, _ = layer.forward_and_log_det(tf.identity(x), x.shape.rank - 1, context)
        tiny = np.finfo(y.dtype.as_numpy_dtype).tiny  # of zeros alone, any error is large
        largest = tf.maximum(tf.reduce_max(tf.abs(y)), tiny)
        measures["round_trip"] = tf.reduce_max(tf.abs(back - y)) / largest
    except NotImplementedError:
        pass
    of_layer = layer.diagnostics(y, context)
    per_entry = log_det / math.prod(y.shape[1:])
    per_entry -= tf.cast(of_layer.pop("unit_log_det", 0.0), log_det.dtype)
    measures["log_det_min"] = tf.reduce_min(per_entry)
    measures["log_det_max"] = tf.reduce_max(per_entry)
    return x, measures | of_layer


def _bijectors(flow: tfd.Distribution, x: tf.Tensor, context) -> Iterator[tuple]:
    """The bijectors of `flow`: their paths, their data, and what conditioners are given."""
    prefix = ""
    if isinstance(flow, Dequantized):
        x = flow.bin_centers(x)
        if flow.dequantizer is not None:
            noise = tf.random.stateless_uniform(tf.shape(x), [0, 1], 0.001, 0.999, x.dtype)
            features = flow.dequantizer.encode_context(x)
            yield "dequantizer.bijector", flow.dequantizer.bijector, noise, features
        prefix, flow = "flow.", flow.flow
    features = None if context is None else flow.encode_context(context)
    yield f"{prefix}bijector", flow.bijector, tf.cast(x, flow.dtype), features


def quantity(measure: str) -> str:
    """What a measure is of: `log_det` for `log_det_min` and `log_det_max`."""
    return measure.removesuffix("_min").removesuffix("_max")


def worst(layers: list[dict[str, Any]]) -> dict[str, float]:
    """The largest value of each quantity over all layers; NaN where one is not finite."""
    found = {}
    for name in ("round_trip", "log_det", "condition", "saturation"):
        values = [v for layer in layers for k, v in layer.items() if quantity(k) == name]
        if values:
            found[name] = math.nan if None in values else float(max(map(abs, values)))
    return found


def not_finite_variables(flow: tfd.Distribution, layers: list[dict[str, Any]]) -> list[str]:
    """The paths of the variables that hold NaN or infinity, in the order of the layers."""
    bad = [
        path
        for path, variable in variable_paths(flow).items()
        if variable.dtype.is_floating and not np.isfinite(variable.numpy()).all()
    ]
    starts = [layer["layer"].split("[")[0] + "." for layer in layers]

    def position(path: str) -> int:
        return next((i for i, start in enumerate(starts) if path.startswith(start)), len(starts))

    return sorted(bad, key=position)


def _plain(value: tf.Tensor) -> int | float | None:
    """A number for JSON, which has no NaN."""
    number = value.numpy().item()
    return number if math.isfinite(number) else None
