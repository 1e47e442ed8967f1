"""`FlowModel`: any TFP distribution as a Keras model."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import saving
from tfp_flows.callbacks.backup import keep_backups, replace_keras_backups, restore_backup
from tfp_flows.callbacks.health import FlowHealth
from tfp_flows.callbacks.training import EpochEnds, StopWhenDiverged
from tfp_flows.core import private, variable_paths
from tfp_flows.core.evaluation import settings_version
from tfp_flows.distributions.initialization import initialize, needs_initialization
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model import data_checks as inputs
from tfp_flows.model import loss_scaling, replicas
from tfp_flows.model.data_adapter import Arguments, DataAdapter
from tfp_flows.model.files import Files
from tfp_flows.model.inference import Inference
from tfp_flows.model.scoring import score
from tfp_flows.model.steps_per_execution import steps_per_execution, with_progress_bar
from tfp_flows.model.summary import LayerView, layer_views, summary_table
from tfp_flows.model.train_step import TrainStep
from tfp_flows.model.training_state import TrainingState
from tfp_flows.model.variable_tracking import (
    track_variables,
    validate_no_activity_losses,
    validate_reads,
)
from tfp_flows.version import __version__

tfd = tfp.distributions


@keras.saving.register_keras_serializable(package="tfp_flows")
class FlowModel(keras.Model):
    """A Keras model around any `tfd.Distribution` that owns `tf.Variable`s.

    `fit` minimises the mean negative log-likelihood of `x`, in nats; there are no targets. Every
    variable of the distribution is the model's own (the very same object), so what `fit` trains
    is what the distribution uses, and what the files hold.

    Args:
      flow: a flow of this package, or any distribution of TFP over one tensor.
      name: name of the model; None: that of the flow.
      **kwargs: as for `keras.Model`.

    Raises:
      TypeError: if `flow` is not a `tfd.Distribution`, or is one over several tensors.
      UntrackedVariableError: if its `log_prob` reads variables that it does not track.
      ValueError: if it has no trainable variables, or has a batch shape.

    Example:
      >>> import tfp_flows as flows
      >>> model = flows.FlowModel(flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,)))
      >>> model.compile(optimizer="adam")
      >>> history = model.fit(np.random.RandomState(0).normal(size=(64, 2)), verbose=0)
      >>> model.sample(5, seed=0).shape
      TensorShape([5, 2])
    """

    def __init__(self, flow: tfd.Distribution, name: str | None = None, **kwargs: Any):
        _validate_distribution(flow)
        dtype = inputs.continuous_part(flow).dtype
        if dtype.is_floating:
            kwargs.setdefault("dtype", dtype.name)
        super().__init__(name=name or flow.name, **kwargs)
        validate_reads(flow)
        if not flow.trainable_variables:
            raise ValueError(f"{flow!r} has no trainable variables: there is nothing to fit.")
        validate_no_activity_losses(flow)
        self._flow = flow
        self._views = track_variables(flow)
        self.training_state = TrainingState(flow, lambda: getattr(self, "optimizer", None))
        # What the model does is done by these, which are plain objects that Keras does not track.
        self._data = DataAdapter(flow, self.training_state.progress)
        self._step = TrainStep(flow, list(self._views), self.training_state)
        self._inference = Inference(flow)
        self._files = Files(flow, self._inference, self.training_state.variables_by_name)
        self._traced_for = self._trace_key()
        self._chooses_steps = False
        self.built = True

    @property
    def flow(self) -> tfd.Distribution:
        """The distribution itself."""
        return self._flow

    # Densities, samples and latents

    def log_prob(self, x: Any, context: Any = None) -> tf.Tensor:
        """Log-probability of each example, in nats.

        Args:
          x: examples, `[n, *event_shape]`.
          context: for a conditional flow, `[n, *context_shape]`, or one for all.

        Returns:
          A tensor of shape [n].

        Raises:
          TypeError, ValueError: if the flow cannot model such examples; see `check_examples`.
        """
        return self._inference.of_data("log_prob", x, context)

    def sample(
        self,
        n: int,
        seed: Any = None,
        temperature: float = 1.0,
        batch_size: int = 1024,
        context: Any = None,
    ) -> tf.Tensor:
        """Draws examples.

        Args:
          n: how many.
          seed: an `int`, or a shape-[2] stateless seed; equal seeds give equal samples.
          temperature: scales the base distribution about its mean; below 1, samples are less
            varied and more typical.
          batch_size: how many latents are decoded at a time, which bounds the memory; it does not
            change the samples.
          context: for a conditional flow, `[n, *context_shape]`, or one for all.

        Returns:
          A tensor of shape `[n, *event_shape]`.

        Raises:
          RuntimeError: if the flow still waits for its initialisation.
          ValueError: if a number is out of range, or there is a temperature and no base.
        """
        return self._inference.sample(n, seed, temperature, batch_size, context)

    def encode(self, x: Any, context: Any = None) -> tf.Tensor:
        """Data to latent.

        Args:
          x: examples, `[n, *event_shape]`; pixels count as the centers of their bins.
          context: for a conditional flow, `[n, *context_shape]`, or one for all.

        Returns:
          Latents, `[n, *latent_shape]`.

        Raises:
          ValueError: if the distribution has no bijector; for examples as `log_prob`.
        """
        return self._inference.of_data("encode", x, context)

    def decode(self, z: Any, context: Any = None) -> tf.Tensor:
        """Latent to data.

        Args:
          z: latents, `[n, *latent_shape]`.
          context: for a conditional flow, `[n, *context_shape]`, or one for all.

        Returns:
          Examples, `[n, *event_shape]`; pixels where the flow models them.

        Raises:
          ValueError: if the distribution has no bijector, or the latents have another shape.
        """
        return self._inference.decode(z, context)

    def score(
        self,
        x: tf.data.Dataset,
        path: str | os.PathLike,
        max_batches: int | None = None,
        bad_rows: str = "error",
        verbose: int = 1,
    ) -> np.ndarray:
        """Writes the log-probability of every example of a data set to a `.npy` file.

        Memory does not grow with the data: a batch is read, scored and written. Under a
        `tf.distribute` strategy each batch is shared among the replicas, and the order of the rows
        is kept. Each of several workers calls `score`, and each writes the whole file. The file
        appears under its name once it is complete.

        Args:
          x: batches `[n, *event_shape]`; `(x, context)` for a conditional flow. Targets are
            ignored.
          path: the file to write, which `np.load` reads.
          max_batches: how many batches to score at most; None: all.
          bad_rows: what to do about rows that hold NaN or infinity, or have no log-probability:
            `"error"` raises, `"nan"` writes NaN for them and warns in the end.
          verbose: 1 shows a progress bar, 2 prints one line in the end, 0 nothing.

        Returns:
          The log-probabilities in nats, shape [rows], mapped from the file and not read yet.

        Raises:
          TypeError: if `x` is not a data set, or not one of the flow's examples.
          ValueError: if it has no end and there is no `max_batches`; if it has no examples; for a
            bad row, which is named.
          RuntimeError: if the data set cannot be read to its end, or another worker died.

        Example:
          >>> import tempfile
          >>> import tfp_flows as flows
          >>> model = flows.FlowModel(flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,)))
          >>> rows = tf.data.Dataset.range(1000).map(lambda i: tf.sin(tf.cast([i, -i], tf.float32)))
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     model.score(rows.batch(100), f"{folder}/scores.npy", verbose=0).shape
          (1000,)
        """
        strategy = self.distribute_strategy
        return score(self._flow, self, strategy, x, path, max_batches, bad_rows, verbose)

    def check_examples(self, examples: Any) -> None:
        """Raises an error for examples that the flow cannot model.

        Args:
          examples: arrays as for `fit`: `x`, or `(x, context)` for a conditional flow.

        Raises:
          TypeError: if they are integers and the distribution is continuous.
          ValueError: if they have another shape, hold NaN or infinity, or have no density.
        """
        inputs.check_examples(inputs.named(examples, self._flow), self._flow)

    def summary(self, print_fn: Callable[[str], Any] = print, **_: Any) -> None:
        """Prints the flow layer by layer, with shapes and parameter counts.

        Args:
          print_fn: gets the text; other arguments of Keras's `summary` are ignored.
        """
        print_fn(f'FlowModel "{self.name}"\n{summary_table(self._flow)}')

    @property
    def layers(self) -> list[LayerView]:
        """The flow's variables by layers and names, as `keras.callbacks.TensorBoard` shows them."""
        return layer_views(self._flow)

    # Training

    def compile(
        self, optimizer: Any = "adam", *args: Any, jit_compile: bool | str = "auto", **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`, without `loss` and `metrics`.

        Args:
          optimizer: of Keras, or its name. One for networks in float16 gets loss scaling.
          *args: none: they would be a loss.
          jit_compile: whether XLA compiles the steps. `"auto"`: on a GPU, for the flows of this
            package. On a CPU a training step was no faster with XLA (RealNVP over 64 features:
            10.4 against 10.3 ms), and the first one took twice as long; distributions of TFP may
            hold loops that XLA cannot differentiate.
          **kwargs: as in Keras. Unless `steps_per_execution` is given, up to 10 steps of flows over
            vectors run at a time, if no callback has a hook for every batch.

        Raises:
          ValueError: if there is a loss, or there are metrics.
        """
        if args or kwargs.get("loss") is not None:
            raise ValueError("The loss is the negative log-likelihood: compile without `loss`.")
        if kwargs.get("metrics") is not None or kwargs.get("weighted_metrics") is not None:
            raise ValueError("Keras metrics compare predictions with targets; a flow has none.")
        if jit_compile == "auto":
            jit_compile = self._default_jit() and not kwargs.get("run_eagerly")
        self._chooses_steps = not IS_LEGACY and "steps_per_execution" not in kwargs
        if kwargs.get("auto_scale_loss", True):
            optimizer = loss_scaling.with_loss_scaling(optimizer, self._flow)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def _default_jit(self) -> bool:
        module = type(self._flow).__module__
        ours = hasattr(self._flow, "bijector") and module.startswith("tfp_flows.")
        # As in Keras: no XLA where devices exchange data.
        alone = not replicas.is_distributed(self.distribute_strategy)
        return ours and alone and bool(tf.config.list_logical_devices("GPU"))

    def fit(self, x: Any = None, y: None = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`; initialises the flow on the first batch unless that is done.

        Args:
          x: examples `[n, *event_shape]` as array, `tf.data.Dataset`, or whatever Keras takes. For
            a conditional flow `(x, context)` or `{"x": x, "context": context}`, also in data sets
            and validation data.
          y: None, as a flow has no targets. Those of data sets and generators are ignored.
          *args, **kwargs: as in Keras. Each weight of `sample_weight` is that of one example.

        Returns:
          Keras's `History`.

        Raises:
          RuntimeError: if the model is not compiled.
          TypeError, ValueError: for examples that the flow cannot model; see `check_examples`.
          tf.errors.InvalidArgumentError: if such examples are met while a data set is read.
        """
        if getattr(self, "optimizer", None) is None:
            raise RuntimeError("Call compile(optimizer=...) before fit.")
        arguments = _by_name(keras.Model.fit, x, y, *args, **kwargs)
        self._before_training("fit")
        arguments = self._data.checked(arguments, "fit")
        if needs_initialization(self._flow):
            self._initialize_on(inputs.first_batch(arguments["x"], self._flow))
        if not getattr(self.optimizer, "built", False):  # tf_keras's has no such attribute
            # Built while a step is traced, Keras would trace the step twice.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        arguments = self._with_steps(self._with_callbacks(arguments))
        is_distributed = replicas.is_distributed(self.distribute_strategy)
        for_fit = functools.partial(self._data.for_fit, is_distributed=is_distributed)
        if not self._data.knows_place(arguments, is_distributed):
            self.training_state.progress.restart_epoch()
        with replicas.lost_workers_named(self.distribute_strategy):
            if not self.training_state.progress.numbers()["batch"]:
                return super().fit(**for_fit(arguments))
            # An epoch that was interrupted is shorter, so it is a `fit` of its own.
            end = arguments["initial_epoch"] + 1
            with keep_backups(arguments["callbacks"]):
                first = super().fit(**for_fit(arguments | {"epochs": end}))
            if self.stop_training or end >= arguments.get("epochs", 1):
                return first
            history = super().fit(**for_fit(arguments | {"initial_epoch": end}))
        history.epoch = first.epoch + history.epoch
        for name, values in history.history.items():
            values[:0] = first.history.get(name, [])
        return history

    def evaluate(self, x: Any = None, y: None = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`: `loss` in nats; `bits_per_dim` too for images.

        Args:
          x, y, *args, **kwargs: as for `fit`.

        Raises:
          TypeError, ValueError: as `fit`; ValueError also for a generator that gives NaN.
        """
        arguments = _by_name(keras.Model.evaluate, x, y, *args, **kwargs)
        if arguments.get("_use_cached_eval_dataset"):  # called by `fit`, which has checked it all
            return super().evaluate(**arguments)
        self._drop_stale_traces()
        arguments = self._data.checked(arguments, "evaluate")
        arguments = self._with_steps(self._data.for_inference(arguments))
        self.training_state.guard.take_unscored()
        results = super().evaluate(**arguments)
        faults = self.training_state.guard.take_unscored()
        if faults:
            raise ValueError(f"evaluate gives no number for such data: {faults}.")
        return results

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """As `keras.Model.predict`: the log-probability of each example.

        Args:
          x, *args, **kwargs: as for `fit`.
        """
        self._drop_stale_traces()
        arguments = _by_name(keras.Model.predict, x, *args, **kwargs)
        arguments["x"] = inputs.checked(x, self._flow, for_loss=False)
        return super().predict(**self._with_steps(self._data.for_inference(arguments)))

    def train_on_batch(self, x: Any, y: None = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`, with the checks and the initialisation of `fit`.

        Raises:
          ValueError: as `fit`, and for gradients that are not finite; the weights stay as they
            were.
        """
        arguments = _by_name(keras.Model.train_on_batch, x, y, *args, **kwargs)
        self._before_training("train_on_batch")
        arguments = self._data.checked(arguments, "train_on_batch")
        if needs_initialization(self._flow):
            self._initialize_on(inputs.named(arguments["x"], self._flow))
        logs = super().train_on_batch(**arguments)
        self.training_state.guard.raise_or_warn(self.optimizer)
        return logs

    def test_on_batch(self, x: Any, y: None = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`, with the checks of `evaluate`."""
        arguments = _by_name(keras.Model.test_on_batch, x, y, *args, **kwargs)
        self._drop_stale_traces()
        return super().test_on_batch(**self._data.checked(arguments, "test_on_batch"))

    def _before_training(self, where: str) -> None:
        self._drop_stale_traces()
        if not self.trainable_variables:
            raise ValueError(
                f"No variable of this model is trainable, so {where} would change nothing. Set "
                "model.trainable = True, or unfreeze a part of the flow."
            )

    def _drop_stale_traces(self) -> None:
        """Drops Keras's functions if a setting of a bijector, or what is frozen, has changed."""
        key = self._trace_key()
        if key == self._traced_for:
            return
        self._traced_for = key
        self.train_function = self.test_function = self.predict_function = None
        if not IS_LEGACY:
            for view in self._views:
                view.trainable = private.tf_variable(view).trainable

    def _trace_key(self) -> tuple:
        return settings_version(), tuple(v.trainable for v in self._flow.variables)

    def _initialize_on(self, examples: inputs.Examples) -> None:
        examples = replicas.gathered(examples, self.distribute_strategy)
        initialize(self._flow, examples["x"], context=examples.get("context"))

    def _with_callbacks(self, arguments: Arguments) -> Arguments:
        """Adds the callbacks that `fit` needs itself; goes on from a backup if there is one."""
        callbacks, resumed = arguments.get("callbacks") or [], False
        if isinstance(callbacks, list | tuple | keras.callbacks.Callback):
            callbacks = replace_keras_backups(tf.nest.flatten(callbacks))
            resumed = restore_backup(self, callbacks)
            # Epochs are counted before other callbacks save, and errors are raised after that.
            watched = any(isinstance(c, FlowHealth) for c in callbacks)
            last = [] if watched else [StopWhenDiverged()]
            callbacks = [EpochEnds(), *callbacks, *last]
        first = self.training_state.begin(arguments.get("initial_epoch", 0), resumed)
        if replicas.many_workers(self.distribute_strategy):
            variables = self.training_state.variables_by_name().values()
            replicas.take_from_chief(variables, self.distribute_strategy)
            first = self.training_state.progress.numbers()["epoch"]
        return arguments | {"callbacks": callbacks, "initial_epoch": first}

    def _with_steps(self, arguments: Arguments) -> Arguments:
        """Sets how many steps run at a time, with a progress bar that counts them."""
        if not self._chooses_steps:
            return arguments
        steps = steps_per_execution(len(self._flow.event_shape), arguments)
        if replicas.is_distributed(self.distribute_strategy):  # where several at once would fail
            steps = 1
        if steps != self.steps_per_execution:
            self.steps_per_execution = steps
            self.train_function = self.test_function = self.predict_function = None
        return arguments if steps == 1 else with_progress_bar(arguments)

    # Files

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Writes a `.keras` file, loads it again, and compares log-probabilities.

        Missing folders are made. If `log_prob` draws noise, it is compared under one seed.

        Args:
          filepath: the file, whose name ends in `.keras`.
          overwrite: whether a file that is there is replaced; Keras asks otherwise.
          **kwargs: as for `keras.Model.save`.

        Raises:
          ValueError: if the name does not end in `.keras`, or the path is not local.
          TypeError: if a part of the flow cannot be described, as an unregistered function; the
            message names it.
          RuntimeError: if what is read back differs; the file is not kept.
          OSError: if the file cannot be written, as on a full disk; what was there stays.
        """
        self._files.save(functools.partial(super().save, **kwargs), filepath, overwrite)

    def save_weights(
        self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any
    ) -> None:
        """Writes a `.weights.h5` file whose names are the flow's own paths, and verifies it.

        Args:
          filepath: the file, whose name ends in `.weights.h5`.
          overwrite: as for `save`.
          **kwargs: as for `keras.Model.save_weights`.

        Raises:
          ValueError, RuntimeError, OSError: as `save`.
        """
        write = functools.partial(super().save_weights, **kwargs)
        self._files.save_weights(write, filepath, overwrite)

    def load_weights(
        self, filepath: str | os.PathLike, skip_mismatch: bool = False, **kwargs: Any
    ) -> None:
        """Reads a `.weights.h5` or `.keras` file; an error leaves the model as it was.

        Args:
          filepath: the file.
          skip_mismatch: must be False.
          **kwargs: as for `keras.Model.load_weights`.

        Raises:
          ValueError: if names, shapes or dtypes differ, which the message lists; if the file is
            damaged or of another format; or if `skip_mismatch` is True.
        """
        if skip_mismatch:
            raise ValueError(
                "The weights of a flow are loaded completely or not at all: leave skip_mismatch "
                "out. To load a part, assign the variables of one flow to those of the other."
            )
        self._files.load_weights(functools.partial(super().load_weights, **kwargs), filepath)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        *,
        signature: str = "log_prob",
        pixel_dtype: str | tf.DType | None = None,
    ) -> None:
        """Writes a SavedModel that needs neither tfp_flows nor TFP, and verifies it.

        Its signatures are `serving_default` and `log_prob(x)`, `sample(n, seed, temperature)`,
        `encode(x)`, `decode(z)`, each for any batch size and with one output of its own name. The
        loaded object also has them as methods. With them are written a request for each, which
        TensorFlow Serving replays to warm up, and the checksums that `flows.verify` checks.

        Or writes one of `log_prob`, `encode` and `decode` as an ONNX file, and verifies it by ONNX
        Runtime. That needs `pip install "tfp_flows[onnx]"`.

        Args:
          filepath: the folder to make or replace, or the `.onnx` file; missing folders are made.
          format: `"tf_saved_model"` or `"onnx"`.
          verbose: as in Keras; nothing is printed.
          signature: the function that an ONNX file holds.
          pixel_dtype: of the pixels that the signatures of a `flows.Dequantized` take and give, as
            `"uint8"`; None: int32.

        Raises:
          ImportError: if the packages for ONNX are missing.
          ValueError: for another format or signature, or a path that is not local; if a function
            cannot be converted to ONNX; for a `pixel_dtype` of a flow without pixels, or one that
            cannot hold its levels.
          RuntimeError: if what is read back differs; it is not kept.
          OSError: if it cannot be written, as on a full disk; what was there stays.
        """
        self._files.export(filepath, format, signature, pixel_dtype)

    def quantize(self, *_: Any, **__: Any) -> None:
        """Raises NotImplementedError: Keras would find no layers in a flow, and change nothing."""
        raise NotImplementedError(
            "A flow cannot be quantized by Keras. For smaller or faster models use networks in "
            "half precision (network_dtype=), or convert the exported model with TensorFlow Lite."
        )

    # Hooks of Keras

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: a flow is built when it is made."""
        self.built = True

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras 3 would average the first batch over replicas, whose shares may differ in size.
        pass

    def call(self, x: Any, training: bool | None = None) -> tf.Tensor:
        """The log-probability of each example."""
        examples, rows = replicas.never_empty(inputs.named(x, self._flow))
        log_prob = self._flow.log_prob(examples.pop("x"), **examples)
        return log_prob if rows is None else log_prob[:rows]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        return self._step.train(data, self, self.optimizer, self.trainable_variables)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        return self._step.test(data, self)

    @property
    def metrics(self) -> list[Any]:
        return self._step.metrics

    @property
    def trainable_weights(self) -> list[Any]:
        if IS_LEGACY:  # whose own list does not follow a conditioner that is frozen later
            trained = {id(v) for v in self._flow.trainable_variables} if self.trainable else ()
            return [v for v in self._views if id(v) in trained]
        return super().trainable_weights

    def get_config(self) -> dict[str, Any]:
        return {
            "format": saving.FORMAT,
            "tfp_flows": __version__,
            "name": self.name,
            "flow": saving.to_config(self._flow),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> FlowModel:
        saving.check_format(config.get("format"), config.get("tfp_flows"))
        with keras.saving.custom_object_scope(custom_objects or {}):
            return cls(saving.from_config(config["flow"]), name=config["name"])

    def compile_from_config(self, config: dict[str, Any]) -> None:
        saving.validate_allowed(config, keras)
        config = keras.saving.deserialize_keras_object(config)
        if config.get("steps_per_execution") == 1:  # Keras's default, not a choice
            del config["steps_per_execution"]
        self.compile(**{k: v for k, v in config.items() if v is not None})
        self.optimizer.build(self.trainable_variables)  # or its saved state would not be loaded

    def save_own_variables(self, store: Any) -> None:
        for name, variable in variable_paths(self._flow).items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        saving.check_store(store)
        self._inference.weights_changed()
        saving.load_arrays(variable_paths(self._flow), store)


def _validate_distribution(flow: Any) -> None:
    if not isinstance(flow, tfd.Distribution):
        raise TypeError(f"FlowModel takes a tfd.Distribution, got {type(flow).__name__}.")
    if tf.nest.is_nested(flow.dtype):
        raise TypeError(f"FlowModel takes a distribution over one tensor, got {flow!r}.")
    if flow.batch_shape != []:
        raise ValueError(
            f"FlowModel takes one distribution, got {flow.batch_shape} of them (its "
            "batch_shape). If they are the parts of one event, wrap it in tfd.Independent."
        )


def _by_name(method: Callable, *args: Any, **kwargs: Any) -> Arguments:
    """The arguments of a method of Keras by name."""
    arguments = dict(inspect.signature(method).bind(None, *args, **kwargs).arguments)
    del arguments["self"]
    return arguments | arguments.pop("kwargs", {})
