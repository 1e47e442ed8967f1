"""What a careful engineer writes without any library, for this one architecture: the reference."""

from __future__ import annotations

import tensorflow as tf

from benchmarks.contenders.tf_base import TensorFlowContender
from benchmarks.contenders.tf_layers import MLP, standard_normal


class RealNVP(TensorFlowContender):
    width = 2  # parameters for each transformed entry

    def make(self):
        w = self.workload
        self.nets = [MLP(w.half, w.hidden, self.width * w.half) for _ in range(w.layers)]

    def variables(self):
        return [v for net in self.nets for v in net.trainable_variables]

    def to_latent(self, x, raw):
        """One half towards the latent side, and its log-det."""
        shift, raw = tf.split(raw, 2, axis=-1)
        log_scale = 2.0 * tf.tanh(0.5 * raw)
        return (x - shift) * tf.exp(-log_scale), -tf.reduce_sum(log_scale, -1)

    def to_data(self, z, raw):
        """One half towards the data side."""
        shift, raw = tf.split(raw, 2, axis=-1)
        return z * tf.exp(2.0 * tf.tanh(0.5 * raw)) + shift

    def log_prob_of(self, x):
        a, b = tf.split(x, 2, axis=-1)
        total = 0.0
        for net in self.nets:
            b, log_det = self.to_latent(b, net(a))
            total += log_det
            a, b = b, a
        return total + standard_normal(a) + standard_normal(b)

    def draw(self):
        a, b = tf.split(tf.random.normal(self.x.shape), 2, axis=-1)
        for net in reversed(self.nets):
            a, b = b, a
            b = self.to_data(b, net(a))
        return tf.concat([a, b], axis=-1)


class Spline(RealNVP):
    """The rational-quadratic spline with each bin found by comparison, not by search."""

    @property
    def width(self):
        return 3 * self.workload.bins - 1

    def knots(self, raw):
        """Positions on both axes and slopes, `[..., bins + 1]` each."""
        w = self.workload
        raw = tf.reshape(raw, [-1, w.half, self.width])
        widths, heights, slopes = tf.split(raw, [w.bins, w.bins, w.bins - 1], axis=-1)
        slopes = tf.pad(tf.nn.softplus(slopes + 0.5413) + 1e-3, [[0, 0], [0, 0], [1, 1]])
        ends = tf.one_hot([0, w.bins], w.bins + 1)
        return self.positions(widths), self.positions(heights), slopes + tf.reduce_sum(ends, 0)

    def positions(self, raw):
        bins, bound = self.workload.bins, self.workload.bound
        sizes = 2 * bound * (1e-3 + (1 - 1e-3 * bins) * tf.nn.softmax(raw))
        return tf.pad(tf.cumsum(sizes, axis=-1), [[0, 0], [0, 0], [1, 0]]) - bound

    def bin_of(self, value, own, x, y, slope):
        """The bin that holds `value` on the axis `own`: its corner, sizes and slopes."""
        left = tf.cast(value[..., None] >= own[..., :-1], tf.float32)
        here = left - tf.pad(left[..., 1:], [[0, 0], [0, 0], [0, 1]])

        def pick(knots):
            return tf.reduce_sum(here * knots, -1)

        x0, y0 = pick(x[..., :-1]), pick(y[..., :-1])
        width, height = pick(x[..., 1:] - x[..., :-1]), pick(y[..., 1:] - y[..., :-1])
        return x0, y0, width, height, pick(slope[..., :-1]), pick(slope[..., 1:])

    def inside(self, value):
        bound = self.workload.bound
        return tf.abs(value) < bound, tf.clip_by_value(value, -bound + 1e-6, bound - 1e-6)

    def to_latent(self, x, raw):
        knots = self.knots(raw)
        inside, clipped = self.inside(x)
        x0, y0, width, height, d0, d1 = self.bin_of(clipped, knots[0], *knots)
        t, s = (clipped - x0) / width, height / width
        both = t * (1 - t)
        below = s + (d0 + d1 - 2 * s) * both
        z = y0 + height * (s * t * t + d0 * both) / below
        slope = s * s * (d1 * t * t + 2 * s * both + d0 * (1 - t) ** 2) / (below * below)
        log_det = tf.reduce_sum(tf.where(inside, tf.math.log(slope), 0.0), -1)
        return tf.where(inside, z, x), log_det

    def to_data(self, z, raw):
        knots = self.knots(raw)
        inside, clipped = self.inside(z)
        x0, y0, width, height, d0, d1 = self.bin_of(clipped, knots[1], *knots)
        s, rise = height / width, clipped - y0
        bend = rise * (d0 + d1 - 2 * s)
        a, b, c = height * (s - d0) + bend, height * d0 - bend, -s * rise
        root = tf.sqrt(tf.maximum(b * b - 4 * a * c, 0.0))
        return tf.where(inside, x0 + width * 2 * c / (-b - root), z)
