"""The flow as a SavedModel that needs neither this package nor TFP."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.saving.digest import sign_folder
from tfp_flows.saving.files import whole_or_not_at_all
from tfp_flows.saving.proof import provable, prove
from tfp_flows.saving.warm_up import write_warm_up
from tfp_flows.saving.weights import prove_same_arrays

tfd = tfp.distributions


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
    candidates = provable(flow, functions)
    proof = prove(candidates, probe)
    for_proof = {} if proof is None else {proof.name: candidates[proof.name]}

    def check(draft: Path) -> None:
        loaded = tf.saved_model.load(str(draft))
        prove_same_arrays(
            dict(enumerate(flow.variables)),
            {i: v.numpy() for i, v in enumerate(loaded.variables_of_flow)},
        )
        if proof:
            restored = loaded.signatures.get(proof.name) or getattr(loaded, proof.name)
            proof.check(restored, "The SavedModel")

    with whole_or_not_at_all(path, prove=check) as draft:
        write_saved_model(flow, functions, draft, for_proof)
        write_warm_up(draft, flow.name, _requests(functions, probe))
        sign_folder(draft)


def write_saved_model(
    flow: tfd.Distribution,
    functions: Mapping[str, Callable],
    folder: str | os.PathLike,
    methods: Mapping[str, Callable] | None = None,
) -> None:
    """Writes a SavedModel with these functions as signatures and methods, nothing checked.

    Args:
      flow: the distribution.
      functions: `tf.function`s with input signatures; `log_prob` is `serving_default` as well.
      folder: where to.
      methods: further functions, which are methods only.
    """
    module = tf.Module()
    module.variables_of_flow = list(flow.variables)
    for name, function in {**(methods or {}), **functions}.items():
        setattr(module, name, function)
    served = {
        name: _with_named_output(function, name).get_concrete_function()
        for name, function in functions.items()
    }
    if "log_prob" in served:
        served = {"serving_default": served["log_prob"], **served}
    tf.saved_model.save(module, str(folder), served)


def _requests(functions, probe) -> dict[str, dict[str, tf.Tensor]]:
    """Arguments for every signature: one example, which fits into a batch of any size."""
    values = {
        **{name: tensor[:1] for name, tensor in probe.items()},
        "n": tf.constant([1]),
        "seed": tf.constant([[0, 0]]),
        "temperature": tf.constant([1.0]),
    }
    if "encode" in functions:
        given = {name: values[name] for name in probe}
        values["z"] = functions["encode"](**given)
    functions = {"serving_default": functions["log_prob"], **functions}
    return {
        name: {spec.name: values[spec.name] for spec in function.input_signature}
        for name, function in functions.items()
    }


def _with_named_output(function: Callable, name: str) -> Callable:
    specs = function.input_signature

    @tf.function(input_signature=specs)
    def named(*args):
        return {name: function(*args)}

    return named
