"""Random initial values: seeds, and draws for further copies of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import private
from tfp_flows.core.bijector import FlowBijector
from tfp_flows.core.network import Network


def reinitialised_values(module: tf.Module, index: int) -> dict[int, np.ndarray]:
    """New values, by `id` of the variable, of the variables that are initialised at random.

    Much cheaper than building the module again. It knows this package's bijectors, and Keras layers
    that keep the initialiser of a weight `kernel` as `kernel_initializer`, as Keras's own do.

    Args:
      module: whose variables are drawn.
      index: of the draw; draws with different indices are independent.
    """
    drawn: dict[int, np.ndarray] = {}
    for part in (module, *module.submodules):
        if isinstance(part, FlowBijector):
            drawn.update((id(v), value) for v, value in part._reinitialised(index))
        elif isinstance(part, Network):
            for layer in part.layers:
                drawn.update(_reinitialised_weights(layer, index))
    return drawn


def _reinitialised_weights(net: Any, index: int) -> Iterator[tuple[int, np.ndarray]]:
    for layer in private.sublayers(net):
        for weight in layer.weights:
            name = weight.name.split("/")[-1].split(":")[0]
            initializer = getattr(layer, f"{name}_initializer", None)
            variable = private.tf_variable(weight)
            if initializer is None or np.ptp(variable.numpy()) == 0.0:
                continue
            config = initializer.get_config()
            if isinstance(config.get("seed"), int):
                config["seed"] = random_state(config["seed"], index).randint(2**31)
            again = type(initializer).from_config(config)
            yield id(variable), np.asarray(again(variable.shape, dtype=variable.dtype.name))


def random_state(seed: int | None, index: int = 0) -> np.random.RandomState:
    """NumPy's generator for one draw with a seed.

    Args:
      seed: a whole number; None: drawn from TensorFlow's global generator, which follows
        `tf.random.set_seed` and `keras.utils.set_random_seed`.
      index: of the draw; draws with other indices or seeds are independent.

    Raises:
      ValueError: if the seed is not a whole number of 0 or more.
    """
    if seed is None:
        with tf.init_scope():  # eager, also while a graph is built
            seed = int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32))
    return np.random.RandomState(np.random.MT19937(_sequence(seed, index)))


def spawned_seeds(seed: int) -> Iterator[int]:
    """Independent seeds from one, all below 2^31.

    Raises:
      ValueError: if the seed is not a whole number of 0 or more.
    """
    parent = _sequence(seed)
    while True:
        (child,) = parent.spawn(1)
        yield int(child.generate_state(1)[0] >> 1)


def _sequence(seed: int, *key: int) -> np.random.SeedSequence:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"A seed is a whole number of 0 or more, or None; got {seed!r}.")
    return np.random.SeedSequence(int(seed), spawn_key=key)
