"""What happens to one batch: the loss, its gradient, and what is counted."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfp_flows.core.evaluation import collecting_penalties, evaluating
from tfp_flows.model import data_checks as inputs
from tfp_flows.model import loss_scaling as precision
from tfp_flows.model import replicas
from tfp_flows.model.guard import clips, faults_of
from tfp_flows.model.sample_weights import weight_vector
from tfp_flows.model.variable_tracking import conditioner_losses


class FlowSteps:
    """The part of `FlowModel` that Keras compiles."""

    def train_step(self, batch):
        x, weight = self._unpacked(batch)
        with tf.GradientTape() as tape, evaluating(noise=self._progress.noise()):
            loss, counted = self._loss_of(x, weight, training=True)
            scaled = precision.scaled(loss, self.optimizer)
        self._count(counted, self._apply_gradients(tape, scaled, self._faults_of(x, weight)))
        with tf.control_dependencies([loss]):  # the batch is here, so its order has been asked for
            self._progress.advance()
        return self._logs()

    def _apply_gradients(self, tape, loss, faults) -> tf.Tensor:
        """Takes a step down the gradient, or skips the batch; returns whether its loss counts."""
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        if not precision.scales(self.optimizer):
            *gradients, faults = replicas.summed([*gradients, faults])
            gradients, counts = self._guard(gradients, faults, clips(self.optimizer))
            replicas.apply_summed(self.optimizer, gradients, variables)
            return counts
        gradients = precision.unscaled(gradients, self.optimizer)  # which skips batches itself
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        broken = tf.cast(~tf.math.is_finite(loss), faults.dtype)
        broken, faults = replicas.summed([broken, faults])
        return ~self._guard.count(tf.equal(broken, 0.0), faults)

    def _unpacked(self, batch) -> tuple[Any, tf.Tensor | None]:
        """The examples of a batch, and their weights if there are any."""
        x, rest = inputs.split(batch, self._flow)
        _, weight, *_ = *rest, None, None
        if weight is not None:
            weight = weight_vector(weight, x)
        return x, weight

    def _faults_of(self, x, weight) -> tf.Tensor:
        x = x if isinstance(x, dict) else {"x": x}
        return faults_of(x["x"], x.get("context"), weight)

    def test_step(self, batch):
        x, weight = self._unpacked(batch)
        self._guard.count_unscored(*replicas.summed([self._faults_of(x, weight)]))
        self._count(self._loss_of(x, weight, training=False)[1])
        return self._logs()

    def _loss_of(self, x, weight, training: bool) -> tuple[tf.Tensor, tuple]:
        """This replica's share of the loss of a batch, and what `_count` takes."""
        with collecting_penalties() as of_examples:
            log_prob = self(x, training=training)
        nats = -log_prob if weight is None else -log_prob * _weights(weight, log_prob.dtype)
        penalties = conditioner_losses(self._flow, self._tracked_views, log_prob.dtype)
        if training:  # what bijectors ask for, as FFJORD does for smooth paths
            shares = sum(replicas.share_of_mean(p) for p in of_examples)
            penalties += replicas.count() * shares
        loss = replicas.share_of_mean(nats) + replicas.share_of_one(penalties)
        return loss, (nats, penalties)

    def _count(self, counted: tuple, fine: tf.Tensor | bool = True) -> None:
        """Counts a batch in the metrics, if `fine`."""
        nats, penalties = counted
        self._loss_metric.update_where(fine, nats + penalties)
        if self._bits_metric is not None:
            size = self._flow.event_shape.num_elements()
            self._bits_metric.update_where(fine, nats / (size * math.log(2.0)))

    def _logs(self) -> dict[str, tf.Tensor]:
        return {m.name: replicas.log_of(m.result()) for m in self.metrics}

    @property
    def metrics(self):
        return [self._loss_metric] + ([self._bits_metric] if self._bits_metric else [])


def _weights(weight: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Weights as factors; NaN for negative ones, as a batch that holds any is not to count."""
    weight = tf.cast(weight, dtype)
    return tf.where(weight < 0, tf.constant(math.nan, dtype), weight)
