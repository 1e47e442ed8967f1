"""The variables of a flow as Keras's callbacks look for them: by layers, with names."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import variable_paths

tfd = tfp.distributions


class ShownVariable:
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
        """The value."""
        return self._variable.numpy()


class ShownLayer(NamedTuple):
    """The variables that share all but the last part of their names."""

    name: str
    weights: list[ShownVariable]


def shown_layers(flow: tfd.Distribution) -> list[ShownLayer]:
    """All floating-point variables of `flow`, layer by layer."""
    layers: dict[str, ShownLayer] = {}
    for path, variable in variable_paths(flow).items():
        if variable.dtype.is_floating:
            layer, _, own = path.rpartition(".")
            shown = ShownVariable(f"{layer}/{own}", variable)
            layers.setdefault(layer, ShownLayer(layer, [])).weights.append(shown)
    return list(layers.values())
