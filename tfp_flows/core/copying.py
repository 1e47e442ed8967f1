"""Deep copies and pickles of distributions and bijectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import tensorflow_probability as tfp

from tfp_flows.core.naming import variable_paths

tfb, tfd = tfp.bijectors, tfp.distributions


class Copyable:
    """Makes `copy` and `pickle` rebuild objects from their constructor's arguments.

    A deep copy has variables and networks of its own; functions, which have none, are shared. A
    pickle contains what a `.keras` file does: the configuration and the weights.
    """

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, copied: dict[int, Any]):
        twin = _deep_copy(self, copied)
        ours, theirs = variable_paths(self), variable_paths(twin)
        for name in set(ours) & set(theirs):  # for variables that are not arguments
            theirs[name].assign(ours[name])
        return twin

    def __reduce__(self):
        from tfp_flows import saving  # which imports all that can be saved

        try:
            config = saving.to_config(self)
        except TypeError as error:
            raise TypeError(f"{self!r} cannot be pickled: {error}") from error
        weights = {name: v.numpy() for name, v in variable_paths(self).items()}
        return saving.from_config_and_weights, (config, weights)


def _deep_copy(obj: Any, copied: dict[int, Any]) -> Any:
    """`copy.deepcopy`, which not all distributions and bijectors of TFP support."""
    if id(obj) in copied:
        return copied[id(obj)]
    if isinstance(obj, tfp.util.TransformedVariable) or not _is_walked(obj):
        return copy.deepcopy(obj, copied)
    if isinstance(obj, Mapping):
        return {key: _deep_copy(value, copied) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return type(obj)(_deep_copy(value, copied) for value in obj)
    twin = type(obj)(**_deep_copy(dict(obj.parameters), copied))
    copied[id(obj)] = twin
    return twin


def _is_walked(obj: Any) -> bool:
    plain = type(obj) in (list, tuple) or isinstance(obj, Mapping)
    return plain or isinstance(obj, tfb.Bijector | tfd.Distribution)
