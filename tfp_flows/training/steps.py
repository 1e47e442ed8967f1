"""What happens to one batch: the loss, its gradient, and what is counted."""

from __future__ import annotations

import math

import tensorflow as tf

from tfp_flows.core.noise import noise_from
from tfp_flows.core.penalties import collected_penalties
from tfp_flows.training import data as inputs
from tfp_flows.training import precision, replicas
from tfp_flows.training.adoption import conditioner_losses


class FlowSteps:
    """The part of `FlowModel` that Keras compiles."""

    def train_step(self, batch):
        x, (_, weight, *_) = self._unpacked(batch)
        with tf.GradientTape() as tape, noise_from(self._progress.noise()):
            loss = self._loss_of(x, weight, training=True)
            scaled = precision.scaled(loss, self.optimizer)
        variables = self.trainable_variables
        if variables:
            gradients = precision.unscaled(tape.gradient(scaled, variables), self.optimizer)
            if precision.scales(self.optimizer):  # and guards by itself
                self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            else:
                gradients = self._guard(replicas.summed(gradients))
                replicas.apply_summed(self.optimizer, gradients, variables)
        with tf.control_dependencies([loss]):  # the batch is here, so its order has been asked for
            self._progress.advance()
        return self._logs()

    def _unpacked(self, batch):
        x, rest = inputs.split(batch, self._flow)
        return x, (*rest, None, None)

    def test_step(self, batch):
        x, (_, weight, *_) = self._unpacked(batch)
        self._loss_of(x, weight, training=False)
        return self._logs()

    def _loss_of(self, x, weight, training: bool) -> tf.Tensor:
        """This replica's share of the loss of a batch; counts it in the metrics."""
        with collected_penalties() as of_examples:
            log_prob = self(x, training=training)
        nats = -log_prob if weight is None else -log_prob * tf.cast(weight, log_prob.dtype)
        penalties = conditioner_losses(self._flow, self._adopted, log_prob.dtype)
        if training:  # what bijectors ask for, as FFJORD does for smooth paths
            shares = sum(replicas.share_of_mean(p) for p in of_examples)
            penalties += replicas.count() * shares
        self._loss_metric.update_state(nats + penalties)
        if self._bits_metric is not None:
            size = self._flow.event_shape.num_elements()
            self._bits_metric.update_state(nats / (size * math.log(2.0)))
        return replicas.share_of_mean(nats) + replicas.share_of_one(penalties)

    def _logs(self) -> dict[str, tf.Tensor]:
        return {m.name: replicas.log_of(m.result()) for m in self.metrics}

    @property
    def metrics(self):
        return [self._loss_metric] + ([self._bits_metric] if self._bits_metric else [])
