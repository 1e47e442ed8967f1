"""TensorFlow Probability's own bijectors, with networks whose variables it can find."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from benchmarks.contenders.tf_base import DistributionContender
from benchmarks.contenders.tf_layers import MLP

tfb, tfd = tfp.bijectors, tfp.distributions


class RealNVP(DistributionContender):
    width = 2  # parameters for each transformed entry

    def make(self):
        w = self.workload
        nets = [MLP(w.half, w.hidden, self.width * w.half) for _ in range(w.layers)]
        couplings = [
            tfb.RealNVP(w.half if i % 2 == 0 else -w.half, bijector_fn=self.bijector_fn(net))
            for i, net in enumerate(nets)
        ]
        base = tfd.Sample(tfd.Normal(0.0, 1.0), w.features)
        self.flow = tfd.TransformedDistribution(base, tfb.Chain(couplings))
        self.nets = nets

    def variables(self):
        return [v for net in self.nets for v in net.trainable_variables]

    def bijector_fn(self, net):
        """From the kept half to the transformation of the other one."""

        def affine(x, units, **_):
            shift, log_scale = tf.split(net(x), 2, axis=-1)
            return tfb.Shift(shift)(tfb.Scale(log_scale=log_scale))

        return affine


class Spline(RealNVP):
    @property
    def width(self):
        return 3 * self.workload.bins - 1

    def bijector_fn(self, net):
        bins, bound = self.workload.bins, self.workload.bound
        room = 2 * bound - bins * 1e-3

        def spline(x, units, **_):
            raw = tf.reshape(net(x), [*x.shape[:-1], units, self.width])
            widths, heights, slopes = tf.split(raw, [bins, bins, bins - 1], axis=-1)
            return tfb.RationalQuadraticSpline(
                bin_widths=tf.nn.softmax(widths) * room + 1e-3,
                bin_heights=tf.nn.softmax(heights) * room + 1e-3,
                knot_slopes=tf.nn.softplus(slopes) + 1e-3,
                range_min=-bound,
            )

        return spline


class Glow(DistributionContender):
    def make(self):
        w = self.workload
        glow = tfb.Glow(
            w.event_shape,
            num_glow_blocks=w.levels,
            num_steps_per_block=w.layers,
            coupling_bijector_fn=lambda shape: tfb.GlowDefaultNetwork(shape, w.hidden),
            # No learned prior of what is factored out.
            exit_bijector_fn=lambda shape, output_chan: lambda x: tfb.Identity(),
        )
        base = tfd.Sample(tfd.Normal(0.0, 1.0), math.prod(w.event_shape))
        self.flow = tfd.TransformedDistribution(base, glow)
