"""How a `FlowModel` goes to disk and comes back: complete, or with an error."""

from __future__ import annotations

import math
import os

import tensorflow as tf

from tfp_flows import saving
from tfp_flows.core import variable_paths
from tfp_flows.core.variables import as_tf_variable, restored_on_error
from tfp_flows.keras_engine import keras
from tfp_flows.version import __version__

FORMAT = 1  # of the description in a .keras file


class FlowFiles:
    """The part of `FlowModel` that reads and writes files."""

    def get_config(self) -> dict:
        return {
            "format": FORMAT,
            "tfp_flows": __version__,
            "name": self.name,
            "flow": saving.to_config(self._flow),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if config.get("format") != FORMAT:
            raise ValueError(
                f"The file was written by tfp_flows {config.get('tfp_flows', '(unknown)')} in "
                f"format {config.get('format')}; this is tfp_flows {__version__}, which reads "
                f"format {FORMAT}. Load it with that version, and save_weights from there."
            )
        with keras.saving.custom_object_scope(custom_objects or {}):
            return cls(saving.from_config(config["flow"]), name=config["name"])

    def save_own_variables(self, store):
        for name, variable in variable_paths(self._flow).items():
            store[name] = variable.numpy()

    def load_own_variables(self, store):
        saving.check_store(store)
        self._is_initialized = False  # until the flags that were loaded say so
        saving.load_arrays(variable_paths(self._flow), store)

    def save(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """Writes a `.keras` file, loads it again, and compares log-probabilities.

        Raises:
          TypeError: a part of the flow cannot be described, as an unregistered function; the
            message names it.
          RuntimeError: what was read back differs; the file is not kept.
          OSError: the file cannot be written, as on a full disk; what was there stays.
        """
        _check_ending(filepath, ".keras")
        with saving.whole_or_not_at_all(filepath, overwrite) as draft:
            super().save(str(draft), **kwargs)
            saving.sign_keras_file(draft)
            loaded = keras.saving.load_model(str(draft), compile=False)
            saving.prove_same_arrays(variable_paths(self._flow), variable_paths(loaded.flow))
            theirs = {n: loaded._function(n) for n in self._all_functions()}
            what = "The .keras file"
            saving.prove_equal(self._flow, self._all_functions(), self._probe(), theirs, what)

    def save_weights(self, filepath, overwrite: bool = True, **kwargs) -> None:
        """Writes a `.weights.h5` file whose names are the flow's own paths, and checks it."""
        _check_ending(filepath, ".weights.h5")
        with saving.whole_or_not_at_all(filepath, overwrite) as draft:
            saving.reserve(draft, self._size_on_disk())
            super().save_weights(str(draft), **kwargs)
            saving.sign_weights_file(draft)
            saving.check_weights_file(variable_paths(self._flow), draft)

    def _whole_state(self) -> list[tf.Variable]:
        """All that a training goes on from: of the flow, the optimizer and the progress."""
        of_optimizer = getattr(getattr(self, "optimizer", None), "variables", ())
        of_optimizer = of_optimizer() if callable(of_optimizer) else of_optimizer
        of_optimizer = [as_tf_variable(v) for v in of_optimizer]
        return [*self._flow.variables, *of_optimizer, self._progress.state]

    def _size_on_disk(self) -> int:
        header = 2048  # more than HDF5 needs to describe an array
        return sum(header + math.prod(v.shape) * v.dtype.size for v in self._whole_state())

    def load_weights(self, filepath, *args, **kwargs) -> None:
        """Reads a `.weights.h5` or `.keras` file, wholly or not at all.

        Raises:
          ValueError: names or shapes differ, which the message lists, or the file is damaged;
            nothing is changed.
        """
        saving.refuse_damaged(filepath)  # before Keras loads what it can of it
        with restored_on_error(self._whole_state()):
            super().load_weights(str(filepath), *args, **kwargs)

    def export(self, filepath: str | os.PathLike, **_) -> None:
        """Writes a SavedModel that needs neither tfp_flows nor TFP, and proves it by reading it.

        Signatures: `serving_default` and `log_prob(x)`, `sample(n, seed, temperature)`,
        `encode(x)`, `decode(z)`, each with an open batch size and one output of its own name.
        The loaded object also has them as methods. With them comes a request for each, which
        TensorFlow Serving replays to be warm, and the digests that `flows.verify` checks.
        """
        saving.export_saved_model(self._flow, self._all_functions(), filepath, self._probe())


def _check_ending(path: str | os.PathLike, ending: str) -> None:
    if not str(path).endswith(ending):
        raise ValueError(f"The name of this file must end in {ending}, got {str(path)!r}.")
