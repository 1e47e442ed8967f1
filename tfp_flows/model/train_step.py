"""The steps that Keras compiles: the loss of a batch, its gradient, and what is counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.evaluation import collecting_penalties, evaluating
from tfp_flows.model import data_checks as inputs
from tfp_flows.model import loss_scaling, replicas
from tfp_flows.model.guard import clips, faults_of
from tfp_flows.model.sample_weights import weight_vector
from tfp_flows.model.training_state import TrainingState
from tfp_flows.model.variable_tracking import conditioner_losses

tfd = tfp.distributions


class TrainStep:
    """Trains or evaluates on one batch, which may be this replica's share of one.

    Args:
      flow: the distribution.
      views: Keras's views of its variables, which know their regularisers.
      state: its progress gives each step noise and counts it; its guard skips bad batches.

    Attributes:
      metrics: the mean loss; for images the mean bits per dimension as well.
    """

    def __init__(self, flow: tfd.Distribution, views: list[Any], state: TrainingState):
        self._flow, self._views = flow, views
        self._progress, self._guard = state.progress, state.guard
        exact = "float64" if inputs.continuous_part(flow).dtype == tf.float64 else None
        self._loss = replicas.Mean(name="loss", dtype=exact)
        self._bits = None
        if len(flow.event_shape) == 3:
            self._bits = replicas.Mean(name="bits_per_dim", dtype=exact)

    @property
    def metrics(self) -> list[replicas.Mean]:
        return [metric for metric in (self._loss, self._bits) if metric is not None]

    def train(
        self, batch: Any, log_prob: Callable, optimizer: Any, variables: list[Any]
    ) -> dict[str, tf.Tensor]:
        """Takes a step down the gradient unless the guard skips the batch; returns Keras's logs.

        Args:
          batch: as a data set gives it.
          log_prob: the model, called as `log_prob(x, training=)`.
          optimizer: of Keras.
          variables: Keras's views of those to train.
        """
        examples, weight = self._unpack(batch)
        with tf.GradientTape() as tape, evaluating(noise=self._progress.noise()):
            with collecting_penalties() as of_examples:
                values = log_prob(inputs.as_input(examples), training=True)
            nats, penalties = self._loss_terms(values, weight)
            # What bijectors request, as a ContinuousFlow does for smooth trajectories.
            shares = sum(replicas.share_of_mean(p) for p in of_examples)
            penalties += replicas.count() * shares
            loss = replicas.share_of_mean(nats) + replicas.share_of_one(penalties)
            scaled = loss_scaling.scaled(loss, optimizer)
        gradients = tape.gradient(scaled, variables)
        counts = self._apply(gradients, scaled, _faults(examples, weight), optimizer, variables)
        self._count(nats, penalties, counts)
        with tf.control_dependencies([loss]):  # the batch is here, so its order has been read
            self._progress.advance()
        return self._logs()

    def test(self, batch: Any, log_prob: Callable) -> dict[str, tf.Tensor]:
        """Counts the loss of a batch; the arguments are those of `train`."""
        examples, weight = self._unpack(batch)
        self._guard.count_unscored(*replicas.summed([_faults(examples, weight)]))
        values = log_prob(inputs.as_input(examples), training=False)
        self._count(*self._loss_terms(values, weight), counts=True)
        return self._logs()

    def _unpack(self, batch: Any) -> tuple[inputs.Examples, tf.Tensor | None]:
        """The examples of a batch, and their weights if there are any."""
        examples, rest = inputs.split(batch, self._flow)
        weight = rest[1] if len(rest) > 1 else None
        return examples, None if weight is None else weight_vector(weight, examples["x"])

    def _loss_terms(self, log_prob, weight) -> tuple[tf.Tensor, tf.Tensor]:
        """The weighted nats of each example, and the sum of the networks' regularisers."""
        if weight is not None:
            weight = tf.cast(weight, log_prob.dtype)
            # A batch with a negative weight is not to count.
            log_prob *= tf.where(weight < 0, tf.constant(math.nan, weight.dtype), weight)
        return -log_prob, conditioner_losses(self._flow, self._views, log_prob.dtype)

    def _apply(self, gradients, loss, faults, optimizer, variables) -> tf.Tensor:
        """Applies the gradients, or skips the batch; returns whether its loss counts."""
        if not loss_scaling.scales(optimizer):
            *gradients, faults = replicas.summed([*gradients, faults])
            gradients, counts = self._guard(gradients, faults, clips(optimizer))
            replicas.apply_summed(optimizer, gradients, variables)
            return counts
        gradients = loss_scaling.unscaled(gradients, optimizer)  # which skips batches itself
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        not_finite = tf.cast(~tf.math.is_finite(loss), faults.dtype)
        not_finite, faults = replicas.summed([not_finite, faults])
        return ~self._guard.count(tf.equal(not_finite, 0.0), faults)

    def _count(self, nats: tf.Tensor, penalties: tf.Tensor, counts: tf.Tensor | bool) -> None:
        """Adds a batch to the metrics if it `counts`."""
        self._loss.update_where(counts, nats + penalties)
        if self._bits is not None:
            size = self._flow.event_shape.num_elements()
            self._bits.update_where(counts, nats / (size * math.log(2.0)))

    def _logs(self) -> dict[str, tf.Tensor]:
        return {m.name: replicas.log_of(m.result()) for m in self.metrics}


def _faults(examples: inputs.Examples, weight: tf.Tensor | None) -> tf.Tensor:
    return faults_of(examples["x"], examples.get("context"), weight)
