"""The flow as a SavedModel that needs neither this package nor TFP."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions import Dequantized
from tfp_flows.saving.digest import sign_folder
from tfp_flows.saving.files import whole_or_not_at_all
from tfp_flows.saving.warm_up import write_warm_up

tfd = tfp.distributions


def signatures(flow: tfd.Distribution) -> dict[str, Callable]:
    """The `tf.function`s of a flow, with open batch size, by name.

    `log_prob(x)` and `sample(n, seed, temperature)` for every distribution; `encode(x)` (data ->
    latent) and `decode(z)` (latent -> data) where it has a bijector. Those of a conditional flow
    take a `context` as last argument, one for each example.
    """
    pixels = flow if isinstance(flow, Dequantized) else None
    continuous = pixels.flow if pixels else flow
    x_spec = tf.TensorSpec([None, *flow.event_shape], flow.dtype, name="x")
    given_spec = _context_spec(continuous)

    def to_data(values):
        return pixels.quantize(values) if pixels else values

    @tf.function(input_signature=[x_spec, *given_spec])
    def log_prob(x, context=None):
        given = {} if context is None else {"context": _never_empty(context)}
        return flow.log_prob(_never_empty(x), **given)[: tf.shape(x)[0]]

    bijector = getattr(continuous, "bijector", None)
    if bijector is None:

        @tf.function(input_signature=[*_draw_specs(temperature=False), *given_spec])
        def sample(n, seed, context=None):
            given = {} if context is None else {"context": context}
            return to_data(continuous.sample(n, seed=seed, **given))

        return {"log_prob": log_prob, "sample": sample}

    def features(context) -> dict[str, tf.Tensor]:
        if context is None:
            return {}
        return {"context": continuous.encode_context(_never_empty(context))}

    draw = latent_sampler(flow)

    if len(draw.input_signature) == 2:

        @tf.function(input_signature=[*draw.input_signature, *given_spec])
        def sample(n, seed, context=None):
            z = draw(tf.maximum(n, 1), seed)
            return to_data(bijector.forward(z, **features(context)))[:n]

    else:

        @tf.function(input_signature=[*draw.input_signature, *given_spec])
        def sample(n, seed, temperature, context=None):
            z = draw(tf.maximum(n, 1), seed, temperature)
            return to_data(bijector.forward(z, **features(context)))[:n]

    base = continuous.distribution
    z_spec = tf.TensorSpec([None, *base.event_shape], base.dtype, name="z")

    @tf.function(input_signature=[x_spec, *given_spec])
    def encode(x, context=None):
        values = _never_empty(x)
        if pixels:  # encoded at the middle of their bins
            values = pixels.middles(values)
        return bijector.inverse(values, **features(context))[: tf.shape(x)[0]]

    @tf.function(input_signature=[z_spec, *given_spec])
    def decode(z, context=None):
        return to_data(bijector.forward(_never_empty(z), **features(context)))[: tf.shape(z)[0]]

    return {"log_prob": log_prob, "sample": sample, "encode": encode, "decode": decode}


def _context_spec(flow: tfd.Distribution) -> list[tf.TensorSpec]:
    shape = getattr(flow, "context_shape", None)
    if shape is None:
        return []
    return [tf.TensorSpec([None, *shape], flow.context_dtype, name="context")]


def _draw_specs(temperature: bool) -> list[tf.TensorSpec]:
    specs = [
        tf.TensorSpec([], tf.int32, name="n"),
        tf.TensorSpec([2], tf.int32, name="seed"),
        tf.TensorSpec([], tf.float32, name="temperature"),
    ]
    return specs if temperature else specs[:2]


def latent_sampler(flow: tfd.Distribution) -> Callable:
    """The function `(n, seed[, temperature]) -> z` of a flow with a base distribution.

    It takes a temperature where the base has a mean to scale about.
    """
    base = getattr(flow, "flow", flow).distribution
    if not _has_centre(base):
        specs = _draw_specs(temperature=False)
        return tf.function(lambda n, seed: base.sample(n, seed=seed), input_signature=specs)

    @tf.function(input_signature=_draw_specs(temperature=True))
    def draw(n, seed, temperature):
        z, centre = base.sample(n, seed=seed), base.mean()
        return centre + (z - centre) * tf.cast(temperature, z.dtype)

    return draw


def _has_centre(base: tfd.Distribution) -> bool:
    try:
        return bool(tf.reduce_all(tf.math.is_finite(base.mean())))
    except NotImplementedError:
        return False


def _never_empty(values: tf.Tensor) -> tf.Tensor:
    """Pads an empty batch to one example: oneDNN's convolutions give it the wrong shape."""
    missing = tf.cast(tf.equal(tf.shape(values)[0], 0), tf.int32)
    padding = tf.zeros(tf.concat([[missing], tf.shape(values)[1:]], 0), values.dtype)
    return tf.concat([values, padding], 0)


def export_saved_model(
    flow: tfd.Distribution,
    functions: dict[str, Callable],
    path: str | os.PathLike,
    probe: dict[str, tf.Tensor],
) -> None:
    """Writes a SavedModel, reads it back, compares, and only then moves it to `path`.

    Args:
      flow: the distribution.
      functions: what `signatures(flow)` gave.
      path: the directory to make or replace.
      probe: data to compare log-probabilities on, by the names of their arguments.

    Raises:
      RuntimeError: what was read back gives other values.
    """
    module = tf.Module()
    module.variables_of_flow = list(flow.variables)
    for name, function in functions.items():
        setattr(module, name, function)
    named = {
        name: _with_named_output(function, name).get_concrete_function()
        for name, function in functions.items()
    }
    served = {"serving_default": named["log_prob"], **named}
    requests = _requests(functions, probe)

    def prove(draft: Path) -> None:
        loaded = tf.saved_model.load(str(draft))
        prove_equal(flow, functions, probe, loaded.signatures, "The SavedModel")

    with whole_or_not_at_all(path, prove=prove) as draft:
        tf.saved_model.save(module, str(draft), served)
        write_warm_up(draft, flow.name, requests)
        sign_folder(draft)


def _requests(functions, probe) -> dict[str, dict[str, tf.Tensor]]:
    """Arguments for every signature, made of the probe."""
    values = {
        **probe,
        "n": tf.shape(probe["x"])[0],
        "seed": tf.constant([0, 0]),
        "temperature": tf.constant(1.0),
    }
    if "encode" in functions:
        values["z"] = functions["encode"](**probe)
    functions = {"serving_default": functions["log_prob"], **functions}
    return {
        name: {spec.name: values[spec.name] for spec in function.input_signature}
        for name, function in functions.items()
    }


def prove_equal(flow, functions, probe, loaded, what: str) -> None:
    """Raises RuntimeError unless `loaded` agrees with `functions` on the probe."""
    # Dequantisation noise differs from call to call, so pixels are compared by their latents.
    name = "encode" if isinstance(flow, Dequantized) and "encode" in functions else "log_prob"
    ours = functions[name](**probe).numpy()
    theirs = loaded[name](**probe)
    theirs = (theirs[name] if isinstance(theirs, dict) else theirs).numpy()
    if not np.allclose(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True):
        gap = float(np.max(np.abs(ours - theirs)))
        raise RuntimeError(
            f"{what} was written, but what is read back differs by {gap:.3g} in {name}. It was "
            "discarded; what was there before is untouched."
        )


def _with_named_output(function: Callable, name: str) -> Callable:
    specs = function.input_signature

    @tf.function(input_signature=specs)
    def named(*args):
        return {name: function(*args)}

    return named
