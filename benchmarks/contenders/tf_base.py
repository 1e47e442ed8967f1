"""What the TensorFlow contenders share: a `tf.function` around the step, and Keras's Adam."""

from __future__ import annotations

from abc import abstractmethod

import tensorflow as tf

from benchmarks.contenders.base import Contender
from benchmarks.workloads import LEARNING_RATE
from tfp_flows.keras_engine import keras


class TensorFlowContender(Contender):
    """A subclass makes its variables, and says what log-prob and samples are."""

    def build(self, jit_compile: bool = False, **options):
        keras.utils.set_random_seed(0)
        gpus = tf.config.list_physical_devices("GPU")
        self.device = "gpu" if gpus else "cpu"
        self.x = tf.constant(self.workload.data())
        self.make(**options)
        self.optimizer = self.make_optimizer()
        variables = self.variables()

        def step(x):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(self.log_prob_of(x))
            gradients = tape.gradient(loss, variables)
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        self.optimizer.build(variables)
        self._step = tf.function(step, jit_compile=jit_compile)
        self._log_prob = tf.function(self.log_prob_of, jit_compile=jit_compile)
        self._sample = tf.function(self.draw, jit_compile=jit_compile)

    @abstractmethod
    def make(self, **options) -> None:
        """Makes the flow."""

    @abstractmethod
    def variables(self) -> list[tf.Variable]:
        """What is trained."""

    @abstractmethod
    def log_prob_of(self, x):
        """Log-probabilities `[batch]`."""

    @abstractmethod
    def draw(self):
        """Samples `[batch, ...]`."""

    def make_optimizer(self):
        return keras.optimizers.Adam(LEARNING_RATE)

    def parameters(self):
        return sum(v.shape.num_elements() for v in self.variables())

    def train(self, n):
        for _ in range(n):
            loss = self._step(self.x)
        return float(loss)  # waits: a device runs what it is given in order

    def log_prob(self, n):
        for _ in range(n):
            out = self._log_prob(self.x)
        return float(out[0])

    def sample(self, n):
        for _ in range(n):
            out = self._sample()
        return float(tf.reshape(out, [-1])[0])

    def device_memory(self, reset=False):
        if self.device == "cpu":
            return None
        if reset:
            tf.config.experimental.reset_memory_stats("GPU:0")
        info = tf.config.experimental.get_memory_info("GPU:0")
        return info["current"], info["peak"]


class DistributionContender(TensorFlowContender):
    """A subclass makes `self.flow`, a distribution that finds its own variables."""

    def variables(self):
        return list(self.flow.trainable_variables)

    def log_prob_of(self, x):
        return self.flow.log_prob(x)

    def draw(self):
        return self.flow.sample(self.workload.batch)
