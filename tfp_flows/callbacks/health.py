"""A callback that watches the layers of a flow while it trains, and acts when one fails a check."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.callbacks.health_plot import draw
from tfp_flows.callbacks.measures import measure_layers, not_finite_variables, worst
from tfp_flows.core import private
from tfp_flows.keras_engine import keras


class State:
    """The variables of a model's flow and of its optimizer, but for the learning rate, as of now.

    Args:
      model: a `FlowModel`, compiled.
    """

    def __init__(self, model: keras.Model):
        variables, rate = model.optimizer.variables, private.learning_rate(model.optimizer)
        variables = variables() if callable(variables) else variables  # optimizers of old
        kept = [*model.flow.variables, *(v for v in variables if v is not rate)]
        self._values: list[tuple[Any, np.ndarray]] = [(v, v.numpy()) for v in kept]

    def restore(self) -> None:
        """Gives the variables the values that they had."""
        for variable, value in self._values:
            variable.assign(value)


def validate_no_schedule(optimizer: Any) -> None:
    """Raises ValueError for a learning rate that cannot be lowered."""
    rate = private.learning_rate(optimizer)
    if callable(rate):
        raise ValueError(
            f"The learning rate follows a {type(rate).__name__}, which cannot be lowered. Give "
            "FlowHealth factor=1 (to roll back alone) or another action, or the optimizer a number."
        )


ACTIONS = ("stop", "roll_back", "lower_rate", "warn")


class FlowHealth(keras.callbacks.Callback):
    """Measures every layer of a flow while it trains; names the first that goes bad, and acts.

    It looks before the first batch, after every epoch, and if `every` is a number, after so many
    batches as well. At a look a probe goes through the layers from data to latent. The flow is
    well if no variable and no layer holds NaN or infinity, no measure passes its limit (None
    stands for no limit), the loss is finite, and no batch had to be left out.

    `fit` skips batches whose gradients are not finite, or a thousand times as large as usual.
    Without this callback it stops at the end of the epoch because of the former, and warns of
    both; with it, they are a fault like any other.

    Put it before callbacks that save, so that they save what it leaves. Callbacks after it and
    `History` find in the logs of an epoch, as `health_round_trip`, `health_log_det`,
    `health_condition` and `health_saturation`, the largest measure of all layers, and
    `health_left_out`; so TensorBoard draws them, and `ModelCheckpoint` can monitor them.

    Args:
      probe: examples, `[n, *event_shape]`; a hundred are plenty. For `Dequantized`, pixels.
      context: for a conditional flow, `[n, *context_shape]`.
      every: `"epoch"`, or a number of batches. A number has `fit` run one step at a time.
      action: what to do about a flow that is not well. Each warns, and says which layer it is.

        * `"stop"` ends the training.
        * `"roll_back"` restores the weights and the optimizer's state of the last look at which
          all was well, and lowers the learning rate.
        * `"lower_rate"` lowers the learning rate.
        * `"warn"` does nothing more.
      factor: of the learning rate at each roll-back or lowering; 1 leaves it.
      most: how often it may roll back or lower the rate in one `fit`, which then raises.
      round_trip: limit of the error of a layer's `forward(inverse(x))`, relative to the largest
        entry. Rounding makes it 1e-7 in float32; from 1e-3 on reconstructions are poor.
      condition: limit of the condition number of 1x1 convolutions and other matrices. At 1e4,
        float32 keeps three digits.
      saturation: limit of the share of a coupling's scales where the slope of its scale map is
        less than a hundredth of that at 0: they hardly learn any more.
      log_det: limit of a layer's log-det in nats per entry of the event, of either sign. At 10
        a layer stretches every entry by 22,000. The constants of an `ActNorm` do not count: they
        follow the unit of the data.
      left_out: how many batches may be left out between two looks.
      verbose: 1 prints a line at every look.

    Attributes:
      history: one record a look of this `fit`, as plain dicts for JSON: `epoch` (from 1; 0 is
        before training), `step`, `loss`, `learning_rate`, `left_out`, `not_finite` (paths of
        variables), `fault` (a text, or None), `action` (what was done, or None), and `layers`,
        from data to latent: the path that the layer's variables begin with as `layer` (with `[i]`
        for step `i` of a `Repeat`), `type`, and its measures `not_finite` (examples),
        `round_trip`, `log_det_min`, `log_det_max`, `condition` and `saturation`, as far as it has
        them; None is a number that is not finite.
      message: the last warning, "" if there is none.

    Raises:
      ValueError: an unknown action or number; and from `fit`: a probe that the flow cannot take, a
        learning rate that follows a schedule and so cannot be lowered, or no state to go back to.
      TypeError: from `fit`, the flow has no bijector.
      RuntimeError: from `fit`, the flow is still not well after `most` actions.

    Example:
      >>> import tfp_flows as flows
      >>> x = np.random.RandomState(0).normal(size=(64, 2))
      >>> model = flows.FlowModel(flows.real_nvp(event_shape=(2,), layers=2, hidden=(8,)))
      >>> model.compile(optimizer="adam")
      >>> health = FlowHealth(x[:32], action="roll_back")
      >>> _ = model.fit(x, epochs=2, callbacks=[health], verbose=0)
      >>> [record["fault"] for record in health.history]
      [None, None, None]
    """

    def __init__(
        self,
        probe,
        context=None,
        every: str | int = "epoch",
        action: str = "stop",
        factor: float = 0.5,
        most: int = 5,
        *,
        round_trip: float | None = 1e-3,
        condition: float | None = 1e4,
        saturation: float | None = 0.5,
        log_det: float | None = 10.0,
        left_out: int | None = 0,
        verbose: int = 0,
    ):
        super().__init__()
        if action not in ACTIONS:
            raise ValueError(f"action must be one of {ACTIONS}, got {action!r}.")
        if every != "epoch" and not (type(every) is int and every > 0):
            raise ValueError(f"every must be 'epoch' or a number of batches, got {every!r}.")
        if not 0.0 < factor <= 1.0 or most < 1:
            raise ValueError(f"0 < factor <= 1 and most >= 1 are needed, got {factor} and {most}.")
        self._probe, self._context = probe, context
        self.action, self.factor, self.most, self.verbose = action, factor, most, verbose
        self.limits = {  # causes before what comes of them
            "not_finite": 0,
            "condition": condition,
            "saturation": saturation,
            "log_det": log_det,
            "round_trip": round_trip,
            "left_out": left_out,
        }
        self.history: list[dict[str, Any]] = []
        self.message = ""
        self._every = every
        if every != "epoch":  # only then does it want to see batches, which slows small steps down
            self.on_train_batch_end = self._after_batch

    def on_train_begin(self, logs=None):
        given = self._probe if self._context is None else (self._probe, self._context)
        self.model.check_examples(given)
        self._examples = [tf.convert_to_tensor(e) for e in tf.nest.flatten(given)]
        if self.action in ("roll_back", "lower_rate") and self.factor < 1.0:
            validate_no_schedule(self.model.optimizer)
        self._healthy: State | None = None
        self._acted, self._epoch, self.history, self.message = 0, 0, [], ""
        self._look({})

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._seen = epoch + 1, 0

    def _after_batch(self, batch, logs=None):
        if batch + 1 - self._seen >= self._every:
            self._seen = batch + 1
            self._look(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._look(logs)
        if logs is not None:  # the same dict goes on to the callbacks after this one
            for name, value in worst(self.history[-1]["layers"]).items():
                logs[f"health_{name}"] = value
            of_epoch = [r["left_out"] for r in self.history if r["epoch"] == self._epoch]
            logs["health_left_out"] = sum(of_epoch)

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the history: a panel for each measure, with its limit, and a line for each layer.

        Args:
          path: of the picture, whose ending says of which kind (`.png`, `.pdf`, `.svg`).

        Raises:
          ImportError: matplotlib is missing, which comes with `tfp_flows[examples]`.
          RuntimeError: there was no `fit` yet.
        """
        if not self.history:
            raise RuntimeError("Nothing to plot yet: give the callback to fit first.")
        draw(self.history, self.limits, path)

    def _look(self, logs) -> None:
        layers = measure_layers(self.model.flow, *self._examples)
        left_out = self.model._guard.take()
        if not self.history:  # what came before is no concern of this training
            left_out = type(left_out)()
        record = {
            "epoch": self._epoch,
            "step": _number(self.model.optimizer.iterations),
            "loss": _finite_or_none((logs or {}).get("loss")),
            "learning_rate": _number(self.model.optimizer.learning_rate),
            "left_out": sum(left_out),
            "layers": layers,
            "not_finite": not_finite_variables(self.model.flow, layers),
            "fault": None,
            "action": None,
        }
        self.history.append(record)
        why = self.model._guard.describe(left_out, self.model.optimizer)
        record["fault"] = self._fault(record, logs or {}, why)
        if record["fault"] is None:
            if self.action == "roll_back":
                self._healthy = State(self.model)
        else:
            self._act(record)
        if self.verbose:
            found = record["fault"] or f"{len(layers)} layers are well"
            print(f"\nFlowHealth, epoch {self._epoch}: {found}")

    def _fault(self, record: dict[str, Any], logs: dict[str, Any], why: str) -> str | None:
        """What is wrong, at the first layer where anything is; None if all is well."""
        if record["not_finite"]:
            return f"variable {record['not_finite'][0]} is not finite"
        for layer in record["layers"]:
            for name, limit in self.limits.items():
                for value in (v for k, v in layer.items() if k.startswith(name)):
                    if limit is not None and (value is None or abs(value) > limit):
                        found = "not finite" if value is None else f"{value:.3g}"
                        return (
                            f"layer {layer['layer']} ({layer['type']}): {name} is {found}, the "
                            f"limit is {limit:g}"
                        )
        left_out, limit = record["left_out"], self.limits["left_out"]
        if limit is not None and left_out > limit:
            return f"{left_out} batch(es) left out, the limit is {limit}: {why.rstrip('.')}"
        if not left_out and record["loss"] is None and "loss" in logs:
            return f"the loss is {logs['loss']}, though every layer is finite on the probe"
        return None

    def _act(self, record: dict[str, Any]) -> None:
        self.message = f"FlowHealth, epoch {self._epoch}: {record['fault']}."
        if self.action == "stop":
            self.message += " Training stops."
            self.model.stop_training = True
        elif self.action != "warn":
            if self.action == "roll_back":
                self._roll_back()
            if self._acted == self.most:
                raise RuntimeError(
                    f"{self.message} This is so after {self.most} times of {self.action!r}, the "
                    "most allowed. Look at that layer and at the data, or lower the learning rate."
                )
            self._acted += 1
            self._lower_rate(record["learning_rate"])
        record["action"] = self.action
        warnings.warn(self.message, stacklevel=2)

    def _roll_back(self) -> None:
        if self._healthy is None:
            raise ValueError(
                f"{self.message} It was so before training began, so there is nothing to roll "
                "back to. Mend the flow, raise that limit, or choose another action."
            )
        self._healthy.restore()
        self.message += " The weights of the last healthy look are back."

    def _lower_rate(self, rate: float) -> None:
        if self.factor < 1.0:
            self.model.optimizer.learning_rate = rate * self.factor
            self.message += f" The learning rate is now {rate * self.factor:.3g}."


def _number(variable) -> int | float:
    """The value of a variable, of either Keras, on one device or on several."""
    return tf.convert_to_tensor(variable).numpy().item()


def _finite_or_none(value) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
