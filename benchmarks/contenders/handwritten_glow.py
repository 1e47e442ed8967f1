"""Glow by hand, unrolled, each network evaluated once: the reference for images."""

from __future__ import annotations

import tensorflow as tf

from benchmarks.contenders.tf_base import TensorFlowContender
from benchmarks.contenders.tf_layers import ConvNet, standard_normal


class _Step(tf.Module):
    """One Glow step towards the latent side: ActNorm and 1x1 in one product, then coupling."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        rotation, _ = tf.linalg.qr(tf.random.normal([channels, channels]))
        packed, permutation = tf.linalg.lu(rotation)
        diagonal = tf.linalg.diag_part(packed)
        self.packed = tf.Variable(tf.linalg.set_diag(packed, tf.zeros(channels)))
        self.log_diagonal = tf.Variable(tf.math.log(tf.abs(diagonal)))
        self.sign = tf.sign(diagonal)
        self.permutation = tf.math.invert_permutation(permutation)
        self.log_scale = tf.Variable(tf.zeros(channels))
        self.shift = tf.Variable(tf.zeros(channels))
        self.net = ConvNet(channels // 2, hidden, channels)

    def triangles(self):
        lower = tf.linalg.set_diag(tf.linalg.band_part(self.packed, -1, 0), tf.ones_like(self.sign))
        diagonal = self.sign * tf.exp(self.log_diagonal)
        return lower, tf.linalg.set_diag(tf.linalg.band_part(self.packed, 0, -1), diagonal)

    def to_latent(self, x):
        lower, upper = self.triangles()
        weight = tf.exp(-self.log_scale)[:, None] * tf.gather(lower @ upper, self.permutation)
        bias = -tf.linalg.matvec(weight, self.shift, transpose_a=True)
        x = tf.nn.bias_add(tf.tensordot(x, weight, 1), bias)
        a, b = tf.split(x, 2, axis=-1)
        shift, raw = tf.split(self.net(a), 2, axis=-1)
        log_scale = tf.math.log_sigmoid(raw + 2.0)
        b = (b - shift) * tf.exp(-log_scale)
        constant = tf.reduce_sum(self.log_diagonal - self.log_scale)
        pixels = x.shape[1] * x.shape[2]
        log_det = pixels * constant - tf.reduce_sum(log_scale, [1, 2, 3])
        return tf.concat([a, b], -1), log_det

    def to_data(self, z):
        a, b = tf.split(z, 2, axis=-1)
        shift, raw = tf.split(self.net(a), 2, axis=-1)
        z = tf.concat([a, b * tf.exp(tf.math.log_sigmoid(raw + 2.0)) + shift], -1)
        lower, upper = self.triangles()
        inverse = tf.linalg.triangular_solve(lower, tf.eye(lower.shape[0]))
        inverse = tf.linalg.triangular_solve(upper, inverse, lower=False)
        inverse = tf.gather(inverse, tf.math.invert_permutation(self.permutation), axis=1)
        inverse *= tf.exp(self.log_scale)
        return tf.nn.bias_add(tf.tensordot(z, inverse, 1), self.shift)


class Glow(TensorFlowContender):
    def make(self):
        w = self.workload
        channels = w.event_shape[-1]
        self.levels = []
        for _ in range(w.levels):
            self.levels.append([_Step(channels * 4, w.hidden) for _ in range(w.layers)])
            channels *= 2

    def variables(self):
        return [v for steps in self.levels for step in steps for v in step.trainable_variables]

    def log_prob_of(self, x):
        total = 0.0
        for i, steps in enumerate(self.levels):
            x = tf.nn.space_to_depth(x, 2)
            for step in steps:
                x, log_det = step.to_latent(x)
                total += log_det
            if i < len(self.levels) - 1:
                x, z = tf.split(x, 2, axis=-1)
                total += standard_normal(z)
        return total + standard_normal(x)

    def draw(self):
        batch, size, _, channels = self.x.shape
        for i in reversed(range(len(self.levels))):
            small, wide = size >> (i + 1), channels << (i + 2)
            if i == len(self.levels) - 1:
                x = tf.random.normal([batch, small, small, wide])
            else:
                x = tf.concat([x, tf.random.normal([batch, small, small, wide // 2])], axis=-1)
            for step in reversed(self.levels[i]):
                x = step.to_data(x)
            x = tf.nn.depth_to_space(x, 2)
        return x
