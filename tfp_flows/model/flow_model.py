"""`FlowModel`: any TFP distribution as a Keras model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.evaluation import settings_version
from tfp_flows.core.variables import validate_tracked
from tfp_flows.distributions import Dequantized
from tfp_flows.distributions.initialization import initialize, needs_initialization
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model import data_checks as inputs
from tfp_flows.model import loss_scaling as precision
from tfp_flows.model import replicas
from tfp_flows.model.data_adapter import FlowFeeding, steps_asked
from tfp_flows.model.files import FlowFiles
from tfp_flows.model.inference import FlowUse
from tfp_flows.model.scoring import FlowScoring
from tfp_flows.model.summary import ShownLayer, shown_layers
from tfp_flows.model.train_step import FlowSteps
from tfp_flows.model.training_state import TrainingState
from tfp_flows.model.variable_tracking import track_variables, validate_no_activity_losses
from tfp_flows.saving import validate_allowed

tfd = tfp.distributions


@keras.saving.register_keras_serializable(package="tfp_flows")
class FlowModel(FlowUse, FlowScoring, FlowFiles, FlowFeeding, FlowSteps, keras.Model):
    """A Keras model around any `tfd.Distribution` that owns `tf.Variable`s.

    `fit` minimises the mean negative log-likelihood of `x`, in nats; targets are not used. Every
    variable of the distribution is the model's own (the very same object), so what `fit` trains
    is what the distribution uses, and what the files hold.

    Args:
      flow: the distribution: a flow of this package, or anything from TFP.
      name: name of the model.

    Raises:
      TypeError: `flow` is no `tfd.Distribution`.
      UntrackedVariableError: its `log_prob` reads variables that it does not track.
      ValueError: it has no trainable variables at all, or a batch shape.

    Example:
      >>> import tfp_flows as flows
      >>> model = flows.FlowModel(flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,)))
      >>> model.compile(optimizer="adam")
      >>> history = model.fit(np.random.RandomState(0).normal(size=(64, 2)), verbose=0)
      >>> model.sample(5, seed=0).shape
      TensorShape([5, 2])
    """

    def __init__(self, flow: tfd.Distribution, name: str | None = None, **kwargs):
        if not isinstance(flow, tfd.Distribution):
            raise TypeError(f"FlowModel takes a tfd.Distribution, got {type(flow).__name__}.")
        if tf.nest.is_nested(flow.dtype):
            raise TypeError(f"FlowModel takes a distribution over one tensor, got {flow!r}.")
        if flow.batch_shape != []:
            raise ValueError(
                f"FlowModel takes one distribution, got {flow.batch_shape} of them (its "
                "batch_shape). If they are the parts of one event, wrap it in tfd.Independent."
            )
        continuous = flow.flow if isinstance(flow, Dequantized) else flow
        if continuous.dtype.is_floating:
            kwargs.setdefault("dtype", continuous.dtype.name)
        super().__init__(name=name or flow.name, **kwargs)
        self._flow = flow
        _look_through(flow)
        if not flow.trainable_variables:
            raise ValueError(f"{flow!r} has no trainable variables: there is nothing to fit.")
        validate_no_activity_losses(flow)
        self._tracked_views = track_variables(flow)
        self._trained = [v.trainable for v in flow.variables]
        self._functions: dict[str, Callable] = {}
        self._draw: Callable | None = None
        self._settings_version = settings_version()
        self._is_initialized = False
        self.training_state = TrainingState(flow, lambda: getattr(self, "optimizer", None))
        self._guard, self._progress = self.training_state.guard, self.training_state.progress
        exact = "float64" if continuous.dtype == tf.float64 else None
        self._loss_metric = replicas.Mean(name="loss", dtype=exact)
        self._bits_metric = None
        if len(flow.event_shape) == 3:
            self._bits_metric = replicas.Mean(name="bits_per_dim", dtype=exact)
        self.built = True

    @property
    def flow(self) -> tfd.Distribution:
        """The distribution itself."""
        return self._flow

    @property
    def layers(self) -> list[ShownLayer]:
        """The flow's variables by layers and names, as `keras.callbacks.TensorBoard` shows them."""
        return shown_layers(self._flow)

    def check_examples(self, examples) -> None:
        """Raises ValueError or TypeError for examples that the flow cannot model.

        Args:
          examples: as for `fit`, in arrays.
        """
        inputs.check_batch(inputs.named(examples, self._flow), self._flow)

    def build(self, input_shape=None):
        """Does nothing: a flow is built when it is made."""
        self.built = True

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras 3 would average the first batch over replicas, whose shares may differ in size.
        pass

    def compile(self, optimizer="adam", *args, jit_compile="auto", **kwargs):
        """As `keras.Model.compile`; the loss is given, and `"auto"` chooses XLA for flows.

        Unless `steps_per_execution` is given, flows over vectors run up to 10 steps at a time
        where no callback wants to see every batch; never more than were asked for.

        That is: on a GPU, for the flows of this package. On a CPU a training step was no faster
        with XLA (RealNVP over 64 features: 10.4 against 10.3 ms), and the first one took twice
        as long; distributions of TFP may hold loops that XLA cannot differentiate.
        """
        if args or kwargs.get("loss") is not None:
            raise ValueError("The loss is the negative log-likelihood: compile without `loss`.")
        if kwargs.get("metrics") is not None or kwargs.get("weighted_metrics") is not None:
            raise ValueError("Keras metrics compare predictions with targets; a flow has none.")
        if jit_compile == "auto":
            jit_compile = self._default_jit() and not kwargs.get("run_eagerly")
        self._own_pace = not IS_LEGACY and "steps_per_execution" not in kwargs
        if kwargs.get("auto_scale_loss", True):
            optimizer = precision.with_loss_scaling(optimizer, self._flow)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def compile_from_config(self, config):
        validate_allowed(config, keras)
        config = keras.saving.deserialize_keras_object(config)
        if config.get("steps_per_execution") == 1:  # Keras's default, not a choice
            del config["steps_per_execution"]
        self.compile(**{k: v for k, v in config.items() if v is not None})
        self.optimizer.build(self.trainable_variables)  # or its saved state has no place to go

    def _default_jit(self) -> bool:
        ours = hasattr(self._flow, "bijector") and type(self._flow).__module__.startswith(
            "tfp_flows."
        )
        # As in Keras: no XLA where devices talk to each other.
        alone = not self._is_distributed()
        return ours and alone and bool(tf.config.list_logical_devices("GPU"))

    def fit(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.fit`; initialises the flow on the first batch unless that is done.

        Args:
          x: examples `[n, *event_shape]` as array, `tf.data.Dataset`, or whatever Keras takes. For
            a conditional flow `(x, context)` or `{"x": x, "context": context}`, also in data sets
            and validation data.
          y: None, as a flow has no targets. Data sets and generators may give some, which are not
            used.
          *args, **kwargs: as in Keras.

        Raises:
          ValueError, TypeError: examples that the flow cannot model; see `check_batch`. In a
            data set they end the training with `tf.errors.InvalidArgumentError`.
        """
        if getattr(self, "optimizer", None) is None:
            raise RuntimeError("Call compile(optimizer=...) before fit.")
        kwargs = _by_name(keras.Model.fit, args, kwargs)
        self._follow_settings()
        self._follow_frozen()
        self._refuse_nothing_to_train("fit")
        x, y, kwargs = self._checked_inputs(x, y, kwargs, "fit")
        validation = kwargs.get("validation_data")
        if validation is not None:
            size = kwargs.get("validation_batch_size") or kwargs.get("batch_size")
            kwargs["validation_data"] = self._checked_validation(validation, size)
        if needs_initialization(self._flow):
            self._initialize_on(inputs.first_batch(x, self._flow))
        if not getattr(self.optimizer, "built", False):  # tf_keras's does not say
            # Built while a step is traced, Keras would trace the step twice.
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        kwargs = self._with_own_callbacks(kwargs)
        validation = kwargs.get("validation_steps") or 0
        kwargs = self._paced(kwargs, steps_asked(x, kwargs.get("steps_per_epoch")), validation)
        with replicas.lost_workers_named(self.distribute_strategy):
            return super().fit(x, y, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`: `loss` in nats; `bits_per_dim` too for images."""
        kwargs = _by_name(keras.Model.evaluate, args, kwargs)
        if kwargs.get("_use_cached_eval_dataset"):  # fit calls it, which has checked everything
            return super().evaluate(x, y, **kwargs)
        self._follow_settings()
        x, y, kwargs = self._checked_inputs(x, y, kwargs, "evaluate")
        kwargs = self._paced(kwargs, steps_asked(x, kwargs.get("steps")))
        self._guard.take_unscored()
        results = super().evaluate(x, y, **kwargs)
        faults = self._guard.take_unscored()
        if faults:
            raise ValueError(f"evaluate gives no number for such data: {faults}.")
        return results

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`: the log-probability of each example."""
        self._follow_settings()
        kwargs = _by_name(keras.Model.predict, args, kwargs, first=2)
        x = inputs.checked(x, self._flow, for_loss=False)
        kwargs = self._paced(kwargs, steps_asked(x, kwargs.get("steps")))
        return super().predict(x, **kwargs)

    def call(self, x, training=None):
        """The log-probability of each example."""
        return replicas.never_empty(self._log_prob_of, inputs.named(x, self._flow))

    def _log_prob_of(self, examples) -> tf.Tensor:
        if not inputs.is_conditional(self._flow):
            return self._flow.log_prob(examples)
        return self._flow.log_prob(examples["x"], context=examples["context"])

    def _initialize_on(self, examples) -> None:
        examples = replicas.gathered(examples, self.distribute_strategy)
        if inputs.is_conditional(self._flow):
            initialize(self._flow, examples["x"], context=examples["context"])
        else:
            initialize(self._flow, examples)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """As `keras.Model.train_on_batch`, with the checks and the initialisation of `fit`.

        Raises:
          ValueError: also for gradients that are not finite; the weights stay as they were.
        """
        self._follow_frozen()
        self._refuse_nothing_to_train("train_on_batch")
        x, y, kwargs = self._checked_on_batch("train_on_batch", x, y, args, kwargs)
        if needs_initialization(self._flow):
            self._initialize_on(x)
        logs = super().train_on_batch(x, y, **kwargs)
        self._guard.raise_or_warn(self.optimizer)
        return logs

    def _follow_frozen(self) -> None:
        """Lets networks that were frozen since the last training, or no longer are, count so."""
        trained = [v.trainable for v in self._flow.variables]
        if trained == self._trained:
            return
        self._trained, self.train_function = trained, None
        if not IS_LEGACY:
            for view, is_trained in zip(self._tracked_views, trained, strict=True):
                view.trainable = is_trained

    def test_on_batch(self, x, y=None, *args, **kwargs):
        """As `keras.Model.test_on_batch`, with the checks of `evaluate`."""
        x, y, kwargs = self._checked_on_batch("test_on_batch", x, y, args, kwargs)
        return super().test_on_batch(x, y, **kwargs)

    def _checked_on_batch(self, name: str, x, y, args, kwargs):
        self._follow_settings()
        kwargs = _by_name(getattr(keras.Model, name), args, kwargs)
        return self._checked_inputs(x, y, kwargs, name)

    def _refuse_nothing_to_train(self, where: str) -> None:
        if not self.trainable_variables:
            raise ValueError(
                f"No variable of this model is trainable, so {where} would change nothing. Set "
                "model.trainable = True, or unfreeze a part of the flow."
            )

    def quantize(self, *_, **__):
        """Is refused: Keras would find no layers in a flow, and change nothing."""
        raise NotImplementedError(
            "A flow cannot be quantized by Keras. For smaller or faster models use networks in "
            "half precision (network_dtype=), or convert the exported model with TensorFlow Lite."
        )

    @property
    def trainable_weights(self):
        if IS_LEGACY:  # whose own list does not follow a conditioner that is frozen later
            trained = {id(v) for v in self._flow.trainable_variables} if self.trainable else ()
            return [v for v in self._tracked_views if id(v) in trained]
        return super().trainable_weights


def _by_name(
    method: Callable, args: tuple, kwargs: dict[str, Any], first: int = 3
) -> dict[str, Any]:
    """The arguments of a method of Keras, by name; those before the `first` are not among them."""
    bound = inspect.signature(method).bind(*[None] * first, *args, **kwargs)
    named = dict(list(bound.arguments.items())[first:])
    return named | named.pop("kwargs", {})


def _look_through(flow: tfd.Distribution) -> None:
    """Builds lazy networks, and raises if `log_prob` reads variables that nobody tracks."""
    example = tf.zeros([1, *flow.event_shape], flow.dtype)
    given = inputs.example_context(flow, 1)
    flow.log_prob(example, **given)

    @tf.function(autograph=False)  # traced only: an eager tape would prepare gradients of loops
    def read():
        with validate_tracked(flow):
            flow.log_prob(example, **given)

    read.get_concrete_function()
