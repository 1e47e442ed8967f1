"""What a probe batch shows of a flow, layer by layer from data to latent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors import (
    ActNorm,
    AffineCoupling,
    Chain,
    MaskedAutoregressive,
    MultiScale,
    Repeat,
)
from tfp_flows.core import private, variable_paths
from tfp_flows.distributions import Dequantized

tfb, tfd = tfp.bijectors, tfp.distributions

Measures = dict[str, tf.Tensor]
_FLAT = 0.01  # a scale is saturated where its map has less than this share of its slope at 0


class Layer(NamedTuple):
    """One layer: the path that its variables' paths begin with, and its places in stacked ones."""

    path: str
    kind: str
    places: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.path + "".join(f"[{i}]" for i in self.places)


class Walk:
    """Takes a batch through every layer of a flow, from data to latent, and measures on the way.

    Containers of this package are opened, as is a `tfb.Chain` that holds its bijectors; any other
    bijector is one layer. Stacked steps are traced once, when they are first needed.

    Args:
      flow: a distribution with a bijector, or `Dequantized` around one, which then sees the
        middle of each pixel's bin.

    Raises:
      TypeError: the distribution has no bijector.
    """

    def __init__(self, flow: tfd.Distribution):
        if not hasattr(getattr(flow, "flow", flow), "bijector"):
            raise TypeError(f"{flow!r} has no bijector, so no layers to look into.")
        self._flow = flow
        self._traced: dict[str, tuple[Callable, list[Layer]]] = {}
        self._now = Layer("", "")  # in eager mode

    def __call__(self, x, context=None) -> list[dict]:
        """Measures each layer on examples `x`, `[n, *event_shape]`; see `measure`.

        Returns:
          One dict a layer: its path as `layer`, its type, and what was measured as numbers, None
          for those which are not finite.
        """
        found: list[tuple[Layer, Measures]] = []
        try:
            for prefix, part, values, features in _parts(self._flow, x, context):
                self._walk(part.bijector, values, features, f"{prefix}bijector", found)
        except tf.errors.InvalidArgumentError:  # a search that NaN keeps from settling
            found.append((self._now, {"not_finite": tf.constant(len(x))}))
        return [
            {"layer": str(layer), "type": layer.kind}
            | {name: _plain(value) for name, value in measures.items()}
            for layer, measures in found
        ]

    def _walk(self, b: tfb.Bijector, value, context, path: str, found: list) -> tf.Tensor:
        """The latents of `value`; what is measured is added to `found`."""
        if isinstance(b, Repeat):
            for i in range(b.count):
                value = self._step(b, i, value, context, path, found)
            return value
        if isinstance(b, MultiScale):
            numbers = itertools.count()

            def level(part, value):
                here = f"{path}.scales.{next(numbers)}"
                return self._walk(part, value, context, here, found), None

            return b.merge_latents(b._descend(value, level)[0])
        if isinstance(b, Chain) or type(b) is private.TFPChain:
            for i, part in enumerate(b.bijectors):
                value = self._walk(part, value, context, f"{path}.bijectors.{i}", found)
            return value
        layer = Layer(path, type(b).__name__)
        if tf.executing_eagerly():
            self._now = layer
        value, measures = measure(b, value, context)
        found.append((layer, measures))
        return value

    def _step(self, repeat: Repeat, i: int, value, context, path: str, found: list) -> tf.Tensor:
        layers: list[Layer] = []
        stack = repeat._stack

        def run(i, value, *given):
            inner: list[tuple[Layer, Measures]] = []
            with stack.at([tf.convert_to_tensor(v)[i] for v in stack.stacked]):
                value = self._walk(repeat.bijector, value, *(given or [None]), path, inner)
            layers[:] = [layer for layer, _ in inner]
            return value, [measures for _, measures in inner]

        arguments = (tf.constant(i), value, *([] if context is None else [context]))
        if tf.executing_eagerly():  # where the stack cannot be given a step's values
            if path not in self._traced:
                function = tf.function(run, autograph=False).get_concrete_function(*arguments)
                self._traced[path] = function, layers
            run, layers = self._traced[path]
            self._now = Layer(path, type(repeat.bijector).__name__, (i,))
        value, measured = run(*arguments)
        placed = [layer._replace(places=(i, *layer.places)) for layer in layers]
        found += zip(placed, measured, strict=True)
        return value


def measure(b: tfb.Bijector, value: tf.Tensor, context) -> tuple[tf.Tensor, Measures]:
    """The latents of `value`, `[n, *event]`, and

    * `not_finite`: for how many examples the latent or the log-det is NaN or infinite,
    * `round_trip`: the largest error of `forward(inverse(value))`, over the largest value; not
      where a bijector has no `forward`,
    * `log_det_min`, `log_det_max`: the log-det from data to latent, in nats for each entry of
      the event; without the part of an `ActNorm`'s constants, which is due to the unit of the data,
    * `condition`: the condition number of a matrix that mixes channels, if the layer has one,
    * `saturation`: the share of scales at a flat end of the scale map, if the layer has one.
    """
    alone = Chain([b])  # which evaluates bijectors of ours and of TFP alike
    out, log_det = alone.inverse_and_log_det(value, value.shape.rank - 1, context)
    log_det = tf.broadcast_to(log_det, tf.shape(value)[:1])
    flat = tf.reshape(out, [tf.shape(out)[0], -1])
    finite = tf.reduce_all(tf.math.is_finite(flat), axis=1) & tf.math.is_finite(log_det)
    entries = math.prod(value.shape[1:])
    measures = {"not_finite": tf.math.count_nonzero(~finite)}
    try:
        back, _ = alone.forward_and_log_det(tf.identity(out), out.shape.rank - 1, context)
        tiny = np.finfo(value.dtype.as_numpy_dtype).tiny  # of zeros alone, any error is large
        largest = tf.maximum(tf.reduce_max(tf.abs(value)), tiny)
        measures["round_trip"] = tf.reduce_max(tf.abs(back - value)) / largest
    except NotImplementedError:
        pass
    units = tf.zeros([], log_det.dtype)
    if isinstance(b, ActNorm):
        units = tf.cast(tf.reduce_mean(tf.math.log(b.scale)), log_det.dtype)
    measures["log_det_min"] = tf.reduce_min(log_det) / entries + units
    measures["log_det_max"] = tf.reduce_max(log_det) / entries + units
    if getattr(b, "is_channel_map", False):
        weight = b.channel_map(value, forward=False).weight
        if weight.shape.rank == 2:
            singular = tf.linalg.svd(tf.cast(weight, tf.float64), compute_uv=False)
            measures["condition"] = singular[0] / singular[-1]
    if isinstance(b, AffineCoupling):
        parts, kept, changed = b._split(value)
        _, raw = b._condition(parts, kept, changed, context)
        measures["saturation"] = _saturation(b._scale_map, raw, parts.trim(tf.ones_like(raw)))
    elif isinstance(b, MaskedAutoregressive):
        raw = b._condition(value, context)[..., 1]
        measures["saturation"] = _saturation(b._scale_map, raw, tf.ones_like(raw))
    return out, measures


def worst(layers: list[dict]) -> dict[str, float]:
    """The largest value of each measure over all layers; NaN where one is not finite."""
    found = {}
    for measure in ("round_trip", "log_det", "condition", "saturation"):
        values = [v for layer in layers for name, v in layer.items() if name.startswith(measure)]
        if values:
            found[measure] = math.nan if None in values else float(max(map(abs, values)))
    return found


def not_finite_variables(flow: tfd.Distribution, layers: list[dict]) -> list[str]:
    """The paths of the variables that hold NaN or infinity, in the order of the layers."""
    bad = [
        path
        for path, variable in variable_paths(flow).items()
        if variable.dtype.is_floating and not np.isfinite(variable.numpy()).all()
    ]
    starts = [layer["layer"].split("[")[0] + "." for layer in layers]

    def place(path):
        return next((i for i, start in enumerate(starts) if path.startswith(start)), len(starts))

    return sorted(bad, key=place)


def _saturation(scale_map, raw: tf.Tensor, used: tf.Tensor) -> tf.Tensor:
    """The share of the entries that are `used` (1, not 0) where the scale map is flat."""

    def slope(raw):
        with tf.GradientTape() as tape:
            tape.watch(raw)
            log_scale = scale_map(raw)
        return tf.abs(tape.gradient(log_scale, raw, unconnected_gradients="zero"))

    flat = slope(raw) < _FLAT * slope(tf.zeros([], raw.dtype))
    return tf.reduce_sum(tf.cast(flat, raw.dtype) * used) / tf.reduce_sum(used)


def _parts(flow: tfd.Distribution, x, context) -> Iterator[tuple]:
    """The flows in `flow`: the start of their paths, their data, and what conditioners get."""
    prefix = ""
    if isinstance(flow, Dequantized):
        x = flow.middles(x)
        if flow.dequantizer is not None:
            noise = tf.random.stateless_uniform(tf.shape(x), [0, 1], 0.001, 0.999, x.dtype)
            yield "dequantizer.", flow.dequantizer, noise, flow.dequantizer.encode_context(x)
        prefix, flow = "flow.", flow.flow
    features = None if context is None else flow.encode_context(context)
    yield prefix, flow, tf.cast(x, flow.dtype), features


def _plain(value: tf.Tensor) -> int | float | None:
    """A number for JSON, which knows no NaN."""
    number = value.numpy().item()
    return number if math.isfinite(number) else None
