"""Initial values, drawn again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core.network import Network
from tfp_flows.core.protocol import FlowBijector
from tfp_flows.core.variables import as_tf_variable


def values_drawn_again(module: tf.Module, turn: int) -> dict[int, np.ndarray]:
    """New random values by `id` of the variable; those that do not start at random are absent.

    Far cheaper than making the module again. It knows this package's bijectors, and Keras layers
    that keep the initialiser of a weight `kernel` as `kernel_initializer`, as Keras's own do.
    """
    drawn: dict[int, np.ndarray] = {}
    for part in (module, *module.submodules):
        if isinstance(part, FlowBijector):
            drawn.update((id(v), value) for v, value in part._fresh_values(turn))
        elif isinstance(part, Network):
            for layer in part.layers:
                drawn.update(_weights_drawn_again(layer))
    return drawn


def _weights_drawn_again(net: Any) -> Iterator[tuple[int, np.ndarray]]:
    for layer in (net, *net._flatten_layers()):
        for weight in layer.weights:
            name = weight.name.split("/")[-1].split(":")[0]
            initializer = getattr(layer, f"{name}_initializer", None)
            variable = as_tf_variable(weight)
            if initializer is None or np.ptp(variable.numpy()) == 0.0:
                continue
            again = type(initializer).from_config(initializer.get_config())
            yield id(variable), np.asarray(again(variable.shape, dtype=variable.dtype.name))


def random_state(seed: int | None, turn: int = 0) -> np.random.RandomState:
    """NumPy's generator for the `turn`-th draw; without a seed it takes TensorFlow's global one."""
    if seed is None:
        return np.random.RandomState(int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32)))
    return np.random.RandomState(seed + turn)
