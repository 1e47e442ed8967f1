"""The layers of any bijector: their paths, and a walk through them from data to latents.

`FlowBijector` says which of its parts are layers. Of TFP's bijectors a `tfb.Chain` is opened, and
any other is one layer.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import private
from tfp_flows.core.bijector import FlowBijector, Measure

tfb = tfp.bijectors


def layers_of(b: tfb.Bijector, path: str) -> list[tuple[str, tfb.Bijector]]:
    """`FlowBijector.layers` of any bijector."""
    if isinstance(b, FlowBijector):
        return b.layers(path)
    return layers_of_chain(b.bijectors, path) if _is_chain(b) else [(path, b)]


def layers_of_chain(
    bijectors: Iterable[tfb.Bijector], path: str, attribute: str = "bijectors"
) -> list[tuple[str, tfb.Bijector]]:
    """The layers of bijectors that a container holds in a list."""
    parts = (layers_of(b, f"{path}.{attribute}.{i}") for i, b in enumerate(bijectors))
    return [layer for part in parts for layer in part]


def visit_layers(
    b: tfb.Bijector, y: tf.Tensor, context, measure: Measure, found: list
) -> tf.Tensor:
    """`FlowBijector.visit_layers` of any bijector."""
    if isinstance(b, FlowBijector):
        return b.visit_layers(y, context, measure, found)
    if _is_chain(b):
        return visit_chain(b.bijectors, y, context, measure, found)
    x, result = measure(b, y, context)
    found.append(result)
    return x


def visit_chain(
    bijectors: Iterable[tfb.Bijector], y: tf.Tensor, context, measure: Measure, found: list
) -> tf.Tensor:
    """Visits the layers of bijectors that follow one another."""
    for b in bijectors:
        y = visit_layers(b, y, context, measure, found)
    return y


def _is_chain(b: tfb.Bijector) -> bool:
    return type(b) is private.TFPChain
