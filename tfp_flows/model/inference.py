"""Inference: densities, samples and latents of a flow, by functions that are traced once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.evaluation import settings_version
from tfp_flows.distributions.initialization import needs_initialization
from tfp_flows.model import data_checks as inputs
from tfp_flows.model.sampling import latent_sampler
from tfp_flows.model.signatures import reference_candidates, signatures

tfd = tfp.distributions


class Inference:
    """What a trained flow is used for, with every argument checked.

    Args:
      flow: the distribution.
    """

    def __init__(self, flow: tfd.Distribution):
        self._flow = flow
        self._functions: dict[str, Callable] = {}
        self._latent_sampler: Callable | None = None
        self._traced_for: Any = None
        self._is_initialized = False

    def functions(self) -> dict[str, Callable]:
        """The `signatures` of the flow, made anew once a setting of a bijector has changed."""
        version = settings_version()
        if not self._functions or self._traced_for != version:
            self._functions, self._latent_sampler = signatures(self._flow), None
            self._traced_for = version
        return self._functions

    def reference_candidates(self) -> dict[str, Callable]:
        """Functions whose values can tell two flows apart, the most telling first."""
        return reference_candidates(self._flow, self.functions())

    def weights_changed(self) -> None:
        """Has the next sample look again whether the flow is initialised."""
        self._is_initialized = False

    def of_data(self, name: str, x: Any, context: Any) -> tf.Tensor:
        """`log_prob` or `encode`, whatever is the name; see `FlowModel`."""
        inputs.check_values(x, self._flow)
        x = tf.cast(x, self._flow.dtype)
        return self._function(name)(x, *self._contexts(x.shape[0], context))

    def decode(self, z: Any, context: Any) -> tf.Tensor:
        """See `FlowModel.decode`."""
        function = self._function("decode")
        spec = function.input_signature[0]
        z = tf.cast(z, spec.dtype)
        if not spec.shape.is_compatible_with(z.shape):
            raise ValueError(f"decode takes latents of shape {spec.shape}, got {z.shape}.")
        return function(z, *self._contexts(z.shape[0], context))

    def sample(
        self, n: int, seed: Any, temperature: float, batch_size: int, context: Any
    ) -> tf.Tensor:
        """See `FlowModel.sample`."""
        self._validate_initialized()
        for name, count in (("n", n), ("batch_size", batch_size)):
            if not isinstance(count, int | np.integer) or count < (name == "batch_size"):
                raise ValueError(
                    f"sample takes a whole number n of 0 or more and a batch_size of 1 or more, "
                    f"got {name}={count!r}."
                )
        if not (math.isfinite(temperature) and temperature >= 0.0):
            raise ValueError(f"temperature must be finite and 0 or more, got {temperature}.")
        contexts, functions = self._contexts(n, context), self.functions()
        in_parts = n > batch_size and "decode" in functions
        if in_parts:
            self._latent_sampler = self._latent_sampler or latent_sampler(self._flow)
        draw = self._latent_sampler if in_parts else functions["sample"]
        arguments = {"n": tf.constant(n, tf.int32), "seed": _stateless_seed(seed)}
        if "temperature" in {spec.name for spec in draw.input_signature}:
            arguments["temperature"] = tf.constant(temperature, tf.float32)
        elif temperature != 1.0:
            raise ValueError(f"{self._flow!r} has no base distribution to scale by temperature.")
        if not in_parts:
            return draw(*arguments.values(), *contexts)
        decode, latents = functions["decode"], draw(*arguments.values())
        parts = [slice(i, i + batch_size) for i in range(0, n, batch_size)]
        return tf.concat([decode(latents[p], *_rows_of(contexts, p)) for p in parts], 0)

    def examples(self) -> dict[str, tf.Tensor]:
        """A few examples to compare flows on, by the names of `log_prob`'s arguments."""
        context = inputs.example_context(self._flow, 3)
        try:  # where the density is
            x = self._flow.sample(3, seed=[0, 1], **context)
        except NotImplementedError:
            x = tf.random.stateless_normal([3, *self._flow.event_shape], [0, 1])
        return {"x": tf.cast(x, self._flow.dtype), **context}

    def _function(self, name: str) -> Callable:
        functions = self.functions()
        if name not in functions:
            raise ValueError(f"{self._flow!r} has no bijector, so no latents to {name}.")
        return functions[name]

    def _contexts(self, n: int, context: Any) -> list[tf.Tensor]:
        """A list of one tensor, a context for each of `n` examples or one row for all; or empty."""
        if not inputs.is_conditional(self._flow):
            if context is not None:
                raise ValueError(f"{self._flow.name} was built without a context, and got one.")
            return []
        shape, context = self._flow.context_shape, self._flow.validated_context(context)
        if context.shape.rank > len(shape) + 1 or (
            context.shape.rank == len(shape) + 1 and context.shape[0] not in (1, n)
        ):
            raise ValueError(
                f"Give one context of shape {shape} for all, or {n} of them; got {context.shape}."
            )
        context = tf.reshape(context, [-1, *shape])  # a single one stays so, and is encoded once
        inputs.check_finite(context, "contexts")
        return [context]

    def _validate_initialized(self) -> None:
        # Looked up once: a flow that is initialised stays so.
        self._is_initialized = self._is_initialized or not needs_initialization(self._flow)
        if not self._is_initialized:
            raise RuntimeError(
                "The flow is not initialised, so its samples would mean nothing. Call fit, or "
                "flows.initialize(flow, batch) with data, or load weights. To sample from the flow "
                "as it was built, call flows.mark_initialized(flow)."
            )


def _rows_of(contexts: list[tf.Tensor], part: slice) -> list[tf.Tensor]:
    """The contexts of a part of the examples."""
    return [context if context.shape[0] == 1 else context[part] for context in contexts]


def _stateless_seed(seed: Any) -> tf.Tensor:
    if seed is None:
        return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    seed = np.asarray(seed)
    if seed.shape not in ((), (2,)) or seed.dtype.kind not in "iu":
        raise ValueError(f"A seed is one whole number or two, got {seed!r}.")
    if (seed != seed.astype(np.int32)).any():
        raise ValueError(f"A seed must fit into 32 bits, got {seed}.")
    return tf.constant([int(seed), 0] if seed.shape == () else seed, tf.int32)
