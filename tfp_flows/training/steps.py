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
            loss, counted = self._loss_of(x, weight, training=True)
            scaled = precision.scaled(loss, self.optimizer)
        self._count(counted, self._apply_gradients(tape, scaled))
        with tf.control_dependencies([loss]):  # the batch is here, so its order has been asked for
            self._progress.advance()
        return self._logs()

    def _apply_gradients(self, tape, loss) -> tf.Tensor:
        """Takes a step down the gradient; returns whether the batch counts, or was left out."""
        variables = self.trainable_variables
        if variables:
            gradients = precision.unscaled(tape.gradient(loss, variables), self.optimizer)
            if not precision.scales(self.optimizer):
                gradients, fine = self._guard(replicas.summed(gradients))
                replicas.apply_summed(self.optimizer, gradients, variables)
                return fine
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))  # guards itself
        return tf.math.is_finite(loss)

    def _unpacked(self, batch):
        x, rest = inputs.split(batch, self._flow)
        return x, (*rest, None, None)

    def test_step(self, batch):
        x, (_, weight, *_) = self._unpacked(batch)
        self._count(self._loss_of(x, weight, training=False)[1])
        return self._logs()

    def _loss_of(self, x, weight, training: bool) -> tuple[tf.Tensor, tuple]:
        """This replica's share of the loss of a batch, and what `_count` takes."""
        with collected_penalties() as of_examples:
            log_prob = self(x, training=training)
        nats = -log_prob if weight is None else -log_prob * tf.cast(weight, log_prob.dtype)
        penalties = conditioner_losses(self._flow, self._adopted, log_prob.dtype)
        if training:  # what bijectors ask for, as FFJORD does for smooth paths
            shares = sum(replicas.share_of_mean(p) for p in of_examples)
            penalties += replicas.count() * shares
        loss = replicas.share_of_mean(nats) + replicas.share_of_one(penalties)
        return loss, (nats, penalties)

    def _count(self, counted: tuple, fine: tf.Tensor | bool = True) -> None:
        """Counts a batch in the metrics, unless it was left out of the training."""
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
