"""Distributions, bijectors and their networks as plain JSON, and back.

A description holds the constructor's arguments, from `parameters`, recursively. Only classes of
TFP and of this package, and what the user has registered with Keras
(`@keras.saving.register_keras_serializable`), are ever built: a file cannot run code of its own.
Variables are described here; their values are in the weights file.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_flows import bijectors, distributions, transformers
from tfp_flows.core import variable_paths
from tfp_flows.core.variables import is_keras_layer
from tfp_flows.keras_engine import keras
from tfp_flows.saving.allowed import validate_allowed
from tfp_flows.saving.verification import load_arrays
from tfp_flows.transformers import Transformer

tfb, tfd = tfp.bijectors, tfp.distributions

_PLACES = {
    "tfp_flows.bijectors": bijectors,
    "tfp_flows.distributions": distributions,
    "tfp_flows.transformers": transformers,
    "tfp.bijectors": tfb,
    "tfp.distributions": tfd,
}
_DESCRIBED = tfb.Bijector | tfd.Distribution | Transformer  # by their `parameters`


def to_config(obj: Any) -> Any:
    """Describes a distribution, or a part of one, in JSON's types.

    Raises:
      TypeError: if a part has no description, as an unregistered function; the message names it.
    """
    return _Writer().write(obj, "flow")


def from_config(config: Any) -> Any:
    """Builds what `to_config` described, with variables at zero.

    Raises:
      ValueError: if the description names a class or function that is not known here.
    """
    return _Reader().read(config)


def from_config_and_weights(config: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Builds what `to_config` described, with these weights; pickles call this."""
    obj = from_config(config)
    load_arrays(variable_paths(obj), weights)
    return obj


class _Writer:
    def __init__(self):
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is unique only while its object lives

    def write(self, obj: Any, where: str) -> Any:
        if obj is None or isinstance(obj, bool | int | float | str):
            return obj
        if isinstance(obj, list | tuple):
            kind = "tuple" if isinstance(obj, tuple) else "list"
            return {kind: [self.write(v, f"{where}[{i}]") for i, v in enumerate(obj)]}
        if isinstance(obj, dict):
            return {"dict": {k: self.write(v, f"{where}.{k}") for k, v in obj.items()}}
        if isinstance(obj, tf.DType):
            return {"dtype": obj.name}
        if isinstance(obj, tf.TensorShape):
            return {"shape": obj.as_list()}
        if id(obj) in self._seen:
            return {"same_as": self._seen[id(obj)]}
        self._seen[id(obj)] = len(self._seen)
        self._alive.append(obj)
        return self._write_shared(obj, where)

    def _write_shared(self, obj: Any, where: str) -> dict:
        if isinstance(obj, tf.Variable):
            return {"variable": _describe_variable(obj)}
        if isinstance(obj, tfp.util.TransformedVariable):
            return {
                "transformed_variable": _describe_variable(obj.pretransformed_input),
                "bijector": self.write(obj.bijector, f"{where}.bijector"),
            }
        if isinstance(obj, np.ndarray | np.generic) or tf.is_tensor(obj):
            array = np.asarray(obj)
            return {"array": array.tolist(), "of": array.dtype.name, "tensor": tf.is_tensor(obj)}
        if isinstance(obj, _DESCRIBED):
            parameters = {
                k: self.write(v, f"{where}.{k}") for k, v in _arguments(obj, where).items()
            }
            return {"object": _name_of(type(obj), where), "parameters": parameters}
        if is_keras_layer(obj):
            engine = "tf_keras" if isinstance(obj, tf_keras.layers.Layer) else "keras"
            return {engine: _engine(engine).saving.serialize_keras_object(obj)}
        if callable(obj):
            return {"function": _registered_name(obj, where)}
        raise TypeError(f"{where} cannot be saved in a .keras file: a {type(obj).__name__}.")


class _Reader:
    def __init__(self):
        self._built: list[Any] = []

    def read(self, config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        if "list" in config:
            return [self.read(v) for v in config["list"]]
        if "tuple" in config:
            return tuple(self.read(v) for v in config["tuple"])
        if "dict" in config:
            return {k: self.read(v) for k, v in config["dict"].items()}
        if "dtype" in config:
            return tf.as_dtype(config["dtype"])
        if "shape" in config:
            return tf.TensorShape(config["shape"])
        if "same_as" in config:
            return self._built[config["same_as"]]
        index = len(self._built)  # before those of its parts, as in the writer
        self._built.append(None)
        self._built[index] = self._read_shared(config)
        return self._built[index]

    def _read_shared(self, config: dict) -> Any:
        if "variable" in config:
            return _build_variable(config["variable"])
        if "transformed_variable" in config:
            bijector = self.read(config["bijector"])
            variable = config["transformed_variable"]
            initial = bijector.forward(tf.zeros(variable["shape"], variable["dtype"]))
            return tfp.util.TransformedVariable(
                initial, bijector, name=variable["name"], trainable=variable["trainable"]
            )
        if "array" in config:
            array = np.array(config["array"], config["of"])
            return tf.constant(array) if config["tensor"] else array
        if "object" in config:
            cls = _class_named(config["object"])
            return cls(**{k: self.read(v) for k, v in config["parameters"].items()})
        if "function" in config:
            return _registered(config["function"])
        for engine in ("keras", "tf_keras"):
            if engine in config:
                objects = {"AutoregressiveNetwork": tfb.AutoregressiveNetwork}
                custom = objects if engine == "tf_keras" else None
                module = _engine(engine)
                validate_allowed(config[engine], module, custom)
                return module.saving.deserialize_keras_object(config[engine], custom)
        raise ValueError(f"This .keras file holds a part that is not known here: {list(config)}.")


def _describe_variable(v: tf.Variable) -> dict:
    return {
        "shape": v.shape.as_list(),
        "dtype": v.dtype.name,
        "trainable": v.trainable,
        "name": v.name.split(":")[0],
    }


def _build_variable(config: dict) -> tf.Variable:
    initial = tf.zeros(config["shape"], config["dtype"])
    return tf.Variable(initial, trainable=config["trainable"], name=config["name"].split("/")[-1])


def _arguments(obj: _DESCRIBED, where: str) -> dict[str, Any]:
    """All of the constructor's arguments, so that a change of their defaults changes no file.

    Functions that are the default are left out: they are code.
    """
    if obj.parameters is None:
        raise TypeError(
            f"{where}: {type(obj).__name__} does not say how it was made. Pass "
            "parameters=dict(locals()) to super().__init__ in its __init__, or save only weights "
            "with save_weights."
        )
    signature = inspect.signature(type(obj).__init__).parameters
    return {
        name: value
        for name, value in obj.parameters.items()
        if name in signature and not (callable(value) and value is signature[name].default)
    }


def _name_of(cls: type, where: str) -> str:
    public = cls.__name__.lstrip("_")  # TFP builds _TransformedDistribution, _Chain, ...
    for place, module in _PLACES.items():
        found = getattr(module, public, None)
        if isinstance(found, type) and (found is cls or issubclass(found, cls)):
            return f"{place}.{public}"
    return _registered_name(cls, where)


def _class_named(name: str) -> type:
    place, _, public = name.rpartition(".")
    if place in _PLACES:
        found = getattr(_PLACES[place], public, None)
        if isinstance(found, type) and issubclass(found, _DESCRIBED):
            return found
    return _registered(name)


def _registered_name(obj: Any, where: str) -> str:
    own = getattr(obj, "__name__", type(obj).__name__)
    name = keras.saving.get_registered_name(obj) if hasattr(obj, "__name__") else ""
    if keras.saving.get_registered_object(name) is not obj:
        raise TypeError(
            f"{where} cannot be saved in a .keras file: {own!r} is code. Decorate it with "
            "@keras.saving.register_keras_serializable(), use a Keras layer, or save only weights "
            "with save_weights."
        )
    return name


def _registered(name: str) -> Any:
    found = keras.saving.get_registered_object(name)
    if found is None:
        raise ValueError(
            f"This .keras file needs {name!r}, which is not registered in this process. Import "
            "the module that decorates it with @keras.saving.register_keras_serializable()."
        )
    return found


def _engine(name: str) -> ModuleType:
    if name == "tf_keras":
        return tf_keras
    import keras as keras_3  # under TF_USE_LEGACY_KERAS, tf.keras is not it

    return keras_3
