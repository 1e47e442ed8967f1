"""A callback that watches the layers of a flow while it trains, and acts when one fails a check."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.callbacks.health_plot import draw
from tfp_flows.callbacks.measures import measure_layers, not_finite_variables, quantity, worst
from tfp_flows.core import private
from tfp_flows.keras_engine import keras

ACTIONS = ("stop", "roll_back", "lower_rate", "warn")


class FlowHealth(keras.callbacks.Callback):
    """Measures every layer of a flow during training; names the first that fails a check, and acts.

    It checks before the first batch, after every epoch, and also after every `every` batches if
    that is a number. A check passes a probe through the layers, from data to latent. The flow is
    healthy if no variable and no layer holds NaN or infinity, no measure exceeds its limit, the
    loss is finite, and no batch had to be skipped.

    `fit` skips batches whose gradients are not finite, or a thousand times as large as usual.
    Without this callback it warns of both, and stops at the end of the epoch because of the
    former; with it, they are a fault like any other.

    Put it before callbacks that save, so that they save what it leaves. Callbacks after it and
    `History` find in the logs of an epoch the largest measure of all layers, as
    `health_round_trip`, `health_log_det`, `health_condition` and `health_saturation`, and
    `health_skipped`; so TensorBoard draws them, and `ModelCheckpoint` can monitor them.

    Args:
      probe: examples, `[n, *event_shape]`, of which a hundred suffice; for `Dequantized`, pixels.
      context: for a conditional flow, `[n, *context_shape]`.
      every: `"epoch"`, or a number of batches, with which `fit` runs one step at a time.
      action: what to do if a check fails. Each action warns, and names the layer.

        * `"stop"` ends the training.
        * `"roll_back"` restores weights, optimizer state and usual gradients of the last check
          that passed, and lowers the learning rate.
        * `"lower_rate"` lowers the learning rate.
        * `"warn"` does nothing more.
      factor: by which a roll-back or lowering multiplies the learning rate; 1 leaves it.
      max_actions: how often one `fit` may roll back or lower the rate before it raises.
      round_trip: limit of the error of a layer's `forward(inverse(x))`, relative to the largest
        entry; None for no limit, as for all limits. Rounding makes it 1e-7 in float32; from 1e-3
        on reconstructions are poor.
      condition: limit of the condition number of 1x1 convolutions and other matrices. At 1e4,
        float32 keeps three digits.
      saturation: limit of the share of a layer's scales where the slope of the scale map is
        less than a hundredth of that at 0, so that they hardly learn any more.
      log_det: limit of a layer's log-det in nats per entry of the event, of either sign. At 10
        a layer stretches every entry by 22,000. The constants of an `ActNorm` do not count: they
        follow the unit of the data.
      skipped: limit of the number of batches skipped between two checks.
      verbose: 1 prints a line at every check.

    Attributes:
      history: one record for each check of the last `fit`, as plain dicts for JSON, with None for
        numbers that are not finite: `epoch` (from 1; 0 is before training), `step`, `loss`,
        `learning_rate`, `skipped`, `not_finite` (paths of variables), `fault` (a text, or None),
        `action` (what was done, or None), and `layers`, from data to latent: the path that the
        layer's variables begin with as `layer` (with `[i]` for step `i` of a `Repeat`), `type`, and
        those of the measures `not_finite` (examples), `round_trip`, `log_det_min`, `log_det_max`,
        `condition`, `saturation` and other `FlowBijector.diagnostics` that the layer has.
      message: the last warning, "" if there is none.

    Raises:
      ValueError: if the action is unknown or a number out of range; from `fit`, if the flow cannot
        take the probe, the learning rate follows a schedule and so cannot be lowered, or a check
        fails before training, so that there is no state to roll back to.
      TypeError: from `fit`, if the flow has no bijector.
      RuntimeError: from `fit`, if a check fails after `max_actions` actions.

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
        probe: Any,
        context: Any = None,
        every: str | int = "epoch",
        action: str = "stop",
        factor: float = 0.5,
        max_actions: int = 5,
        *,
        round_trip: float | None = 1e-3,
        condition: float | None = 1e4,
        saturation: float | None = 0.5,
        log_det: float | None = 10.0,
        skipped: int | None = 0,
        verbose: int = 0,
    ):
        super().__init__()
        if action not in ACTIONS:
            raise ValueError(f"action must be one of {ACTIONS}, got {action!r}.")
        if every != "epoch" and not (type(every) is int and every > 0):
            raise ValueError(f"every must be 'epoch' or a number of batches, got {every!r}.")
        if not 0.0 < factor <= 1.0:
            raise ValueError(f"factor must be over 0 and at most 1, got {factor}.")
        if max_actions < 1:
            raise ValueError(f"max_actions must be 1 or more, got {max_actions}.")
        self._probe = probe if context is None else (probe, context)
        self._every, self.action, self.factor = every, action, factor
        self.max_actions, self.verbose = max_actions, verbose
        self.limits = {  # causes before their effects
            "not_finite": 0,
            "condition": condition,
            "saturation": saturation,
            "log_det": log_det,
            "round_trip": round_trip,
            "skipped": skipped,
        }
        self.history: list[dict[str, Any]] = []
        self.message = ""
        if every != "epoch":  # defined only then, as `fit` runs single steps for such a method
            self.on_train_batch_end = self._after_batch

    def on_train_begin(self, logs: dict[str, Any] | None = None):
        self.model.check_examples(self._probe)
        self._examples = [tf.convert_to_tensor(e) for e in tf.nest.flatten(self._probe)]
        if self.action in ("roll_back", "lower_rate") and self.factor < 1.0:
            _validate_no_schedule(self.model.optimizer)
        self._snapshot = None
        self._actions, self._epoch, self.history, self.message = 0, 0, [], ""
        self._check({})

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None):
        self._epoch, self._checked = epoch + 1, 0

    def _after_batch(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch + 1 - self._checked >= self._every:
            self._checked = batch + 1
            self._check(logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None):
        self._check(logs or {})
        if logs is not None:  # the same dict goes on to the callbacks after this one
            for name, value in worst(self.history[-1]["layers"]).items():
                logs[f"health_{name}"] = value
            of_epoch = [r["skipped"] for r in self.history if r["epoch"] == self._epoch]
            logs["health_skipped"] = sum(of_epoch)

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the history: a panel for each measure, with its limit, and a line for each layer.

        Args:
          path: where to write the picture; its ending gives the format (`.png`, `.pdf`, `.svg`).

        Raises:
          ImportError: if matplotlib, which comes with `tfp_flows[examples]`, is missing.
          RuntimeError: if there was no `fit` yet.
        """
        if not self.history:
            raise RuntimeError("Nothing to plot yet: pass the callback to fit first.")
        draw(self.history, self.limits, path)

    def _check(self, logs: dict[str, Any]) -> None:
        """Measures, records, and acts if need be."""
        flow, optimizer = self.model.flow, self.model.optimizer
        state = self.model.training_state
        layers = measure_layers(flow, *self._examples)
        skipped, why_skipped = 0, ""
        if self.history:  # the first check leaves those of a resumed epoch to the next one
            counts = state.guard.take()
            skipped, why_skipped = sum(counts), state.guard.describe(counts, optimizer)
        record = {
            "epoch": self._epoch,
            "step": _number(optimizer.iterations),
            "loss": _finite_or_none(logs.get("loss")),
            "learning_rate": _number(optimizer.learning_rate),
            "skipped": skipped,
            "layers": layers,
            "not_finite": not_finite_variables(flow, layers),
            "fault": None,
            "action": None,
        }
        self.history.append(record)
        record["fault"] = self._fault(record, logs, why_skipped)
        if record["fault"]:
            self._act(record)
        elif self.action == "roll_back":
            self._snapshot = state.snapshot()
        if self.verbose:
            result = record["fault"] or f"{len(layers)} layers are healthy"
            print(f"\nFlowHealth, epoch {self._epoch}: {result}")

    def _fault(self, record: dict[str, Any], logs: dict[str, Any], why_skipped: str) -> str | None:
        """What is wrong, at the first layer where anything is; None if the flow is healthy."""
        if record["not_finite"]:
            return f"variable {record['not_finite'][0]} is not finite"
        for layer in record["layers"]:
            for name, limit in self.limits.items():
                for value in (v for k, v in layer.items() if quantity(k) == name):
                    if limit is not None and (value is None or abs(value) > limit):
                        found = "not finite" if value is None else f"{value:.3g}"
                        return (
                            f"layer {layer['layer']} ({layer['type']}): {name} is {found}, the "
                            f"limit is {limit:g}"
                        )
        skipped, limit = record["skipped"], self.limits["skipped"]
        if limit is not None and skipped > limit:
            return f"{skipped} batch(es) skipped, the limit is {limit}: {why_skipped.rstrip('.')}"
        if not skipped and record["loss"] is None and "loss" in logs:
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
            if self._actions == self.max_actions:
                raise RuntimeError(
                    f"{self.message} The action {self.action!r} was taken {self.max_actions} "
                    "times, which is max_actions. Look at that layer and at the data, or lower the "
                    "learning rate."
                )
            self._actions += 1
            self._lower_rate(record["learning_rate"])
        record["action"] = self.action
        warnings.warn(self.message, stacklevel=2)

    def _roll_back(self) -> None:
        if self._snapshot is None:
            raise ValueError(
                f"{self.message} This was so before training began, so there is nothing to roll "
                "back to. Repair the flow, raise that limit, or choose another action."
            )
        self._snapshot.restore()
        self.message += " The weights of the last check that passed are restored."

    def _lower_rate(self, rate: float) -> None:
        if self.factor < 1.0:
            self.model.optimizer.learning_rate = rate * self.factor
            self.message += f" The learning rate is now {rate * self.factor:.3g}."


def _validate_no_schedule(optimizer: Any) -> None:
    """Raises ValueError for a learning rate that cannot be lowered."""
    rate = private.learning_rate(optimizer)
    if callable(rate):
        raise ValueError(
            f"The learning rate follows a {type(rate).__name__}, which cannot be lowered. Give "
            "FlowHealth factor=1 (to roll back alone) or another action, or the optimizer a number."
        )


def _number(variable: Any) -> int | float:
    """The value of a variable, of either Keras, on one device or on several."""
    return tf.convert_to_tensor(variable).numpy().item()


def _finite_or_none(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
