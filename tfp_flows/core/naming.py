"""Names of variables in files: paths of constructor arguments, which are public."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import private
from tfp_flows.core.variables import LiveVariables, is_keras_layer

tfb, tfd = tfp.bijectors, tfp.distributions

# Parts that are left out of names: a stacked variable has the name that of a single step has.
_UNNAMED = {"stacked", "pretransformed_input"}


def variable_paths(module: tf.Module) -> dict[str, tf.Variable]:
    """Names every variable of `module` by the constructor arguments that lead to it.

    `bijector.bijectors.1.conditioner.0.kernel` is the kernel of the first layer of the
    `conditioner=` of the second of `bijectors=` of the `bijector=`. These are the names in files,
    so they depend on public names alone, never on a private attribute:

    * a distribution or bijector names its parts by its constructor's arguments (`parameters`),
    * a list names them by their indices, a dict by its keys,
    * a Keras layer names its weights by their indices in `weights` and Keras's short names,
    * any other `tf.Module`, and a part that is not an argument, is named by its attributes.

    A variable with several paths has the first one in alphabetical order of the arguments.

    Args:
      module: a `tfd.Distribution`, `tfb.Bijector` or other `tf.Module`.

    Returns:
      `{name: variable}`, sorted by name, with numbers by value. Processes that build the same
      object get the same names.
    """
    namer = _Namer(module.variables)
    namer.visit(module, ())
    return dict(sorted(namer.named.items(), key=lambda item: _parts_of(item[0])))


class _Namer:
    """Visits the parts of an object, and names its variables.

    Args:
      owned: the variables to name; others, such as those of a template, are ignored.
    """

    def __init__(self, owned: Iterable[tf.Variable]):
        self.named: dict[str, tf.Variable] = {}
        self._unnamed = {id(v) for v in owned}
        self._visited: set[int] = set()

    def visit(self, obj: Any, path: tuple[str, ...]) -> None:
        if isinstance(obj, tf.Variable):
            self._name(obj, path)
        elif isinstance(obj, Mapping):
            self._visit_all(obj, path)
        elif isinstance(obj, list | tuple):
            self._visit_all(dict(enumerate(obj)), path)
        elif id(obj) in self._visited:
            return
        elif is_keras_layer(obj):
            self._visited.add(id(obj))
            for i, variable in enumerate(LiveVariables(obj)):
                self._name(variable, (*path, f"{i}.{_short_name(variable)}"))
        elif isinstance(obj, tf.Module):
            self._visited.add(id(obj))
            if isinstance(obj, tfb.Bijector | tfd.Distribution):
                self._visit_all(dict(sorted((obj.parameters or {}).items())), path)
            self._visit_attributes(obj, path)

    def _visit_all(self, parts: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        for name, part in parts.items():
            self.visit(part, (*path, str(name)))

    def _visit_attributes(self, module: tf.Module, path: tuple[str, ...]) -> None:
        """Names variables that are not reached by arguments."""
        found = private.attributes(
            module, lambda leaf: isinstance(leaf, tf.Variable) and id(leaf) in self._unnamed
        )
        for attributes, variable in sorted(found, key=lambda item: [str(a) for a in item[0]]):
            parts = [str(attribute).strip("_") for attribute in attributes]
            if isinstance(attributes[-1], int):  # an item of a list has no name of its own
                parts[-1] += "." + _short_name(variable)
            self._name(variable, (*path, *parts))

    def _name(self, variable: tf.Variable, path: tuple[str, ...]) -> None:
        if id(variable) not in self._unnamed:
            return
        self._unnamed.remove(id(variable))
        name = base = ".".join(part for part in path if part not in _UNNAMED)
        count = 1
        while name in self.named:
            count += 1
            name = f"{base}_{count}"
        self.named[name] = variable


def _short_name(variable: tf.Variable) -> str:
    return variable.name.split("/")[-1].split(":")[0]


def _parts_of(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in name.split(".")]
