"""What a trained flow is good for: densities, samples, latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core.evaluation import settings_version
from tfp_flows.distributions.initialization import needs_initialization
from tfp_flows.model import data_checks as inputs
from tfp_flows.model.sampling import latent_sampler
from tfp_flows.model.signatures import signatures
from tfp_flows.model.summary import summary_table


class FlowUse:
    """The part of `FlowModel` that asks the flow, through functions that are traced once."""

    def log_prob(self, x, context=None) -> tf.Tensor:
        """Log-probability of each example, in nats.

        Args:
          x: `[n, *event_shape]`.
          context: for a conditional flow, `[n, *context_shape]`, or one for all.
        """
        inputs.check_values(x, self._flow)
        x = tf.cast(x, self._flow.dtype)
        return self._function("log_prob")(x, *self._contexts(x.shape[0], context))

    def sample(
        self,
        n: int,
        seed=None,
        temperature: float = 1.0,
        batch_size: int = 1024,
        context=None,
    ) -> tf.Tensor:
        """Draws `n` examples.

        Args:
          n: how many.
          seed: an `int`, or a shape-[2] stateless seed; equal seeds give equal samples.
          temperature: scales the base distribution about its mean; below 1, samples are less
            varied and more typical.
          batch_size: latents that are decoded at a time, so that many examples need no more
            memory than their own; it does not change the samples.
          context: for a conditional flow, `[n, *context_shape]`, or one for all.

        Raises:
          RuntimeError: the flow still waits for its initialisation.
          ValueError: a temperature for a distribution without a base.
        """
        self._refuse_uninitialized()
        for name, count in (("n", n), ("batch_size", batch_size)):
            if not isinstance(count, int | np.integer) or count < (name == "batch_size"):
                raise ValueError(
                    f"sample takes a whole number n of 0 or more and a batch_size of 1 or more, "
                    f"got {name}={count!r}."
                )
        if not (math.isfinite(temperature) and temperature >= 0.0):
            raise ValueError(f"temperature must be finite and 0 or more, got {temperature}.")
        given = self._contexts(n, context)
        in_parts = n > batch_size and "decode" in self._all_functions()
        draw = self._latent_sampler() if in_parts else self._function("sample")
        arguments = {"n": tf.constant(n, tf.int32), "seed": _stateless_seed(seed)}
        if "temperature" in {spec.name for spec in draw.input_signature}:
            arguments["temperature"] = tf.constant(temperature, tf.float32)
        elif temperature != 1.0:
            raise ValueError(f"{self._flow!r} has no base distribution to scale by temperature.")
        if not in_parts:
            return draw(*arguments.values(), *given)
        decode, latents = self._function("decode"), draw(*arguments.values())
        parts = [slice(i, i + batch_size) for i in range(0, n, batch_size)]
        return tf.concat([decode(latents[p], *_rows_of(given, p)) for p in parts], 0)

    def _contexts(self, n: int, context) -> list[tf.Tensor]:
        """A list of one tensor, a context for each of `n` examples or one row for all; or empty."""
        shape = getattr(self._flow, "context_shape", None)
        if shape is None and context is None:
            return []
        if shape is None:
            raise ValueError(f"{self._flow.name} was built without a context, and got one.")
        context = self._flow.validated_context(context)
        if context.shape.rank > len(shape) + 1 or (
            context.shape.rank == len(shape) + 1 and context.shape[0] not in (1, n)
        ):
            raise ValueError(
                f"Give one context of shape {shape} for all, or {n} of them; got {context.shape}."
            )
        context = tf.reshape(context, [-1, *shape])  # a single one stays so, and is encoded once
        inputs.check_context(context, self._flow)
        return [context]

    def _refuse_uninitialized(self) -> None:
        # Looked up once: a flow that is initialised stays so.
        self._is_initialized = self._is_initialized or not needs_initialization(self._flow)
        if not self._is_initialized:
            raise RuntimeError(
                "The flow is not initialised, so its samples would mean nothing. Call fit, or "
                "flows.initialize(flow, batch) with data, or load weights. To sample from the flow "
                "as it was built, call flows.mark_initialized(flow)."
            )

    def _latent_sampler(self) -> Callable:
        if self._draw is None:
            self._draw = latent_sampler(self._flow)
        return self._draw

    def encode(self, x, context=None) -> tf.Tensor:
        """Data to latent. `x`: `[n, *event_shape]`; pixels count as the middle of their bins."""
        inputs.check_values(x, self._flow)
        x = tf.cast(x, self._flow.dtype)
        return self._function("encode")(x, *self._contexts(x.shape[0], context))

    def decode(self, z, context=None) -> tf.Tensor:
        """Latent to data. `z`: `[n, *latent_shape]`; gives pixels where the flow models them."""
        function = self._function("decode")
        spec = function.input_signature[0]
        z = tf.cast(z, spec.dtype)
        if not spec.shape.is_compatible_with(z.shape):
            raise ValueError(f"decode takes latents of shape {spec.shape}, got {z.shape}.")
        return function(z, *self._contexts(z.shape[0], context))

    def summary(self, print_fn: Callable[[str], Any] = print, **_) -> None:
        """Prints the flow layer by layer, with shapes and parameter counts."""
        print_fn(f'FlowModel "{self.name}"\n{summary_table(self._flow)}')

    def _follow_settings(self) -> None:
        """Drops what was traced before a setting changed, as `fb.ContinuousFlow.trace`."""
        if self._settings_version != settings_version():
            self._settings_version = settings_version()
            self._functions, self._draw = {}, None
            self.train_function = self.test_function = self.predict_function = None

    def _function(self, name: str) -> Callable:
        self._follow_settings()
        if not self._functions:
            self._functions = signatures(self._flow)
        if name not in self._functions:
            raise ValueError(f"{self._flow!r} has no bijector, so no latents to {name}.")
        return self._functions[name]

    def _all_functions(self) -> dict[str, Callable]:
        self._function("log_prob")
        return self._functions

    def _probe(self) -> dict[str, tf.Tensor]:
        """A few examples to compare on, by the names of `log_prob`'s arguments."""
        shape, dtype = [3, *self._flow.event_shape], self._flow.dtype
        given = inputs.example_context(self._flow, 3)
        try:  # where the density is
            x = self._flow.sample(3, seed=[0, 1], **given)
        except NotImplementedError:
            x = tf.random.stateless_normal(shape, [0, 1])
        return {"x": tf.cast(x, dtype), **given}


def _rows_of(given: list[tf.Tensor], part: slice) -> list[tf.Tensor]:
    """The contexts of a part of the examples."""
    return [context if context.shape[0] == 1 else context[part] for context in given]


def _stateless_seed(seed) -> tf.Tensor:
    if seed is None:
        return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    seed = np.asarray(seed)
    if seed.shape not in ((), (2,)) or seed.dtype.kind not in "iu":
        raise ValueError(f"A seed is one whole number or two, got {seed!r}.")
    if (seed != seed.astype(np.int32)).any():
        raise ValueError(f"A seed must fit into 32 bits, got {seed}.")
    return tf.constant([int(seed), 0] if seed.shape == () else seed, tf.int32)
