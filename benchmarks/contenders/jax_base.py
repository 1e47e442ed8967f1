"""What the JAX contenders share: a jitted optax loop."""

from __future__ import annotations

from abc import abstractmethod

import jax
import optax
from jax import numpy as jnp

from benchmarks.contenders.base import Contender
from benchmarks.workloads import LEARNING_RATE


class JaxContender(Contender):
    """A subclass makes parameters, and says what log-prob and samples are, given them."""

    def build(self):
        self.device = jax.default_backend()
        self.x = jnp.asarray(self.workload.data())
        self.key = jax.random.key(0)
        self.params = self.make(jax.random.key(1))
        optimizer = optax.adam(LEARNING_RATE)
        self.state = optimizer.init(self.params)

        def step(params, state, x):
            loss, gradients = jax.value_and_grad(
                lambda params: -self.log_prob_of(params, x).mean()
            )(params)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, loss

        self._step = jax.jit(step, donate_argnums=(0, 1))
        self._log_prob = jax.jit(self.log_prob_of)
        self._sample = jax.jit(self.draw)

    @abstractmethod
    def make(self, key):
        """The parameters, a tree of arrays."""

    @abstractmethod
    def log_prob_of(self, params, x):
        """Log-probabilities `[batch]`."""

    @abstractmethod
    def draw(self, params, key):
        """Samples `[batch, ...]`."""

    def parameters(self):
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def train(self, n):
        for _ in range(n):
            self.params, self.state, loss = self._step(self.params, self.state, self.x)
        jax.block_until_ready((self.params, self.state))
        return float(loss)

    def log_prob(self, n):
        for _ in range(n):
            out = jax.block_until_ready(self._log_prob(self.params, self.x))
        return float(out[0])

    def sample(self, n):
        for _ in range(n):
            self.key, key = jax.random.split(self.key)
            out = jax.block_until_ready(self._sample(self.params, key))
        return float(out.ravel()[0])

    def device_memory(self, reset=False):
        statistics = jax.devices()[0].memory_stats()  # whose peak cannot be reset
        if not statistics:
            return None
        return statistics["bytes_in_use"], statistics["peak_bytes_in_use"]


def init_mlp(key, inputs: int, hidden: int, outputs: int) -> list[dict]:
    """Weights of two hidden layers and an output that starts at zero."""
    keys = jax.random.split(key, 2)
    glorot = jax.nn.initializers.glorot_uniform()
    weights = [
        glorot(keys[0], (inputs, hidden)),
        glorot(keys[1], (hidden, hidden)),
        jnp.zeros((hidden, outputs)),
    ]
    return [dict(w=w, b=jnp.zeros(w.shape[1])) for w in weights]


def mlp(params: list[dict], x):
    """Two hidden layers with relu."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]
