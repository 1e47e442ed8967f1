"""Networks of plain variables, for hand-written TensorFlow and for TFP's vectors."""

from __future__ import annotations

import math

import tensorflow as tf

_GLOROT = tf.keras.initializers.GlorotUniform(seed=0)


class MLP(tf.Module):
    """Two hidden layers with relu and an output that starts at zero."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        shapes = [[inputs, hidden], [hidden, hidden], [hidden, outputs]]
        self.weights = [tf.Variable(_GLOROT(s)) for s in shapes[:-1]]
        self.weights.append(tf.Variable(tf.zeros(shapes[-1])))
        self.biases = [tf.Variable(tf.zeros(s[-1:])) for s in shapes]

    def __call__(self, x):
        layers = list(zip(self.weights, self.biases, strict=True))
        for weight, bias in layers[:-1]:
            x = tf.nn.relu(x @ weight + bias)
        weight, bias = layers[-1]
        return x @ weight + bias


class ConvNet(tf.Module):
    """Convolutions 3x3, 1x1, 3x3 with relu; the output starts at zero."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        shapes = [[3, 3, inputs, hidden], [1, 1, hidden, hidden], [3, 3, hidden, outputs]]
        self.filters = [tf.Variable(_GLOROT(s)) for s in shapes[:-1]]
        self.filters.append(tf.Variable(tf.zeros(shapes[-1])))
        self.biases = [tf.Variable(tf.zeros(s[-1:])) for s in shapes]

    def __call__(self, x):
        layers = list(zip(self.filters, self.biases, strict=True))
        for kernel, bias in layers[:-1]:
            x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
        kernel, bias = layers[-1]
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)


def standard_normal(z):
    """The log-density of all but the first dimension."""
    axes = list(range(1, z.shape.rank))
    size = z.shape[1:].num_elements()
    return -0.5 * (tf.reduce_sum(z * z, axes) + size * math.log(2 * math.pi))
