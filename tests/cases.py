"""Every bijector and flow of the package, one line each: what the contract test runs over."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.conditioners import conv, lipschitz_mlp, made, mlp, resnet
from tfp_flows.keras_engine import keras
from tfp_flows.transformers import Affine, LogisticMixtureCDF, RationalQuadraticSpline

tfb = tfp.bijectors

IMAGE_MASK = np.random.RandomState(1).uniform(size=(2, 3, 2)) < 0.5


class Linear(tf.Module):
    """A conditioner that is neither Keras's nor a function."""

    def __init__(self, inputs: int, outputs: int, dtype: tf.DType):
        super().__init__()
        self.weight = tf.Variable(tf.random.normal([inputs, outputs], dtype=dtype) / 3)

    def __call__(self, x):
        return tf.tanh(tf.linalg.matmul(x, self.weight))


def lazy(outputs: int, dtype: str):
    """A Keras model without an Input: its variables come with the first call."""
    layers = [keras.layers.Dense(5, "tanh", dtype=dtype), keras.layers.Dense(outputs, dtype=dtype)]
    return keras.Sequential(layers)


def old_keras(inputs: int, outputs: int, dtype: str):
    return tf_keras.Sequential(
        [tf_keras.layers.Dense(outputs, input_shape=(inputs,), activation="tanh", dtype=dtype)]
    )


def affine(net, **kwargs):
    return fb.AffineCoupling(net, **kwargs)


def standardized(t):
    units = fb.Standardize(4, t)
    units.initialize(tf.constant(np.random.RandomState(0).normal(size=(9, 4)) * 3.0 + 1.0, t))
    return units


def step(t):
    return fb.Chain([fb.ActNorm(4, t), fb.Invertible1x1Conv(4, 0, t), affine(Linear(2, 4, t))])


def multiscale(t):
    return fb.MultiScale(
        [
            fb.Chain([fb.Squeeze(), fb.ActNorm(4, t)]),
            fb.Chain([fb.Squeeze(), fb.Invertible1x1Conv(8, 0, t)]),
        ],
        (4, 4, 1),
    )


def tight(t):
    """Tolerances of an ODE's steps that leave the contract's own to spare."""
    return {"rtol": 1e-5, "atol": 1e-5} if t == tf.float32 else {"rtol": 1e-10, "atol": 1e-10}


def waves(x, time):
    """A vector field that is a plain function, of images."""
    return tf.sin(x[:, ::-1] + 0.5 * x + time[:, :, None, None]) / 2


# name: (latent shape, dtype -> bijector, width of the context if it takes one). One line here runs
# the whole contract over a new bijector.
BIJECTORS: dict[str, tuple] = {
    "additive-half": ((4,), lambda t: fb.AdditiveCoupling(mlp(2, 2, (5,), dtype=t.name))),
    "additive-alternate-swap": (
        (5,),
        lambda t: fb.AdditiveCoupling(mlp(2, 3, (5,), dtype=t.name), "alternate", swap=True),
    ),
    "additive-checkerboard": (
        (2, 2, 2),
        lambda t: fb.AdditiveCoupling(conv((2, 2, 2), 2, 3, dtype=t.name), "checkerboard"),
    ),
    "affine-half": ((4,), lambda t: affine(mlp(2, 4, (5,), "tanh", dtype=t.name))),
    "affine-half-swap": ((4,), lambda t: affine(mlp(2, 4, (5,), dtype=t.name), swap=True)),
    "affine-alternate": ((5,), lambda t: affine(mlp(3, 4, (5,), dtype=t.name), mask="alternate")),
    "affine-array": (
        (4,),
        lambda t: affine(mlp(1, 6, (5,), dtype=t.name), mask=np.array([False, False, True, False])),
    ),
    "affine-image-array": (
        (2, 3, 2),
        lambda t: affine(conv((2, 3, 2), 4, 3, dtype=t.name), mask=IMAGE_MASK),
    ),
    "affine-channel": (
        (2, 2, 4),
        lambda t: affine(conv((2, 2, 2), 4, 3, position_bias=True, dtype=t.name), mask="channel"),
    ),
    "affine-channel-swap": (
        (2, 2, 4),
        lambda t: affine(conv((2, 2, 2), 4, 3, dtype=t.name), mask="channel", swap=True),
    ),
    "affine-checkerboard-swap": (
        (4, 2, 1),
        lambda t: affine(resnet((4, 2, 1), 2, 3, 1, dtype=t.name), mask="checkerboard", swap=True),
    ),
    "affine-half-of-a-matrix": (
        (2, 4),
        lambda t: affine(Linear(2, 4, t), mask="half", event_ndims=2),
    ),
    "scale-sigmoid": ((4,), lambda t: affine(Linear(2, 4, t), scale_map="sigmoid")),
    "scale-clamp": ((4,), lambda t: affine(Linear(2, 4, t), scale_map="clamp")),
    "scale-softplus": ((4,), lambda t: affine(Linear(2, 4, t), scale_map="softplus")),
    "scale-custom": ((4,), lambda t: affine(Linear(2, 4, t), scale_map=tf.math.atan)),
    "standardize": ((4,), standardized),
    "conditioner-function": ((4,), lambda t: affine(lambda a: tf.concat([a, tf.sin(a)], -1))),
    "conditioner-lazy-keras": ((4,), lambda t: affine(lazy(4, t.name))),
    "conditioner-tf-keras": ((4,), lambda t: affine(old_keras(2, 4, t.name))),
    "affine-context": ((4,), lambda t: affine(mlp(2, 4, (5,), context=2, dtype=t.name)), 2),
    "context-affine": (
        (2, 2, 3),
        lambda t: fb.ContextAffine(mlp(2, 6, (5,), dtype=t.name), event_ndims=3),
        2,
    ),
    "affine-image-context": (
        (2, 2, 4),
        lambda t: affine(
            conv((2, 2, 2), 4, 3, context=(2, 2, 1), dtype=t.name), mask="channel", swap=True
        ),
        4,
    ),
    "affine-resnet-context": (
        (2, 2, 4),
        lambda t: affine(resnet((2, 2, 2), 4, 3, 1, context=3, dtype=t.name), mask="channel"),
        3,
    ),
    "spline-context": (
        (4,),
        lambda t: fb.SplineCoupling(mlp(2, 16, (5,), context=2, dtype=t.name), bins=3),
        2,
    ),
    "chain-reversible-context": (
        (4,),
        lambda t: fb.Chain(
            [
                affine(mlp(2, 4, (5,), context=2, dtype=t.name)),
                fb.ActNorm(4, t),
                fb.Invert(affine(mlp(2, 4, (5,), context=2, dtype=t.name), swap=True)),
            ],
            reversible=True,
        ),
        2,
    ),
    "repeat-context": (
        (4,),
        lambda t: fb.Repeat(affine(mlp(2, 4, (5,), "tanh", context=2, dtype=t.name)), 2, True),
        2,
    ),
    "invert": ((4,), lambda t: fb.Invert(affine(Linear(2, 4, t)))),
    "spline-half": ((4,), lambda t: fb.SplineCoupling(mlp(2, 22, (5,), dtype=t.name), bins=4)),
    "spline-array": (
        (4,),
        lambda t: fb.SplineCoupling(
            mlp(1, 15, (5,), dtype=t.name), np.array([False, False, True, False]), bins=2, bound=1
        ),
    ),
    "spline-image-channel": (
        (2, 2, 4),
        lambda t: fb.SplineCoupling(
            conv((2, 2, 2), 16, 3, dtype=t.name), "channel", swap=True, bins=3
        ),
    ),
    "spline-image-checkerboard": (
        (2, 2, 2),
        lambda t: fb.SplineCoupling(conv((2, 2, 2), 10, 3, dtype=t.name), "checkerboard", bins=2),
    ),
    "spline-circular": (
        (4,),
        lambda t: fb.SplineCoupling(mlp(4, 24, (5,), dtype=t.name), bins=4, circular=True),
    ),
    "autoregressive-affine": (
        (3,),
        lambda t: fb.MaskedAutoregressive(made(3, 2, (6,), "reverse", dtype=t.name)),
    ),
    "autoregressive-context": (
        (4,),
        lambda t: fb.MaskedAutoregressive(
            made(4, 2, (5, 6), "random", "tanh", context=2, seed=0, dtype=t.name),
            Affine("softplus"),
        ),
        2,
    ),
    "autoregressive-spline": (
        (3,),
        lambda t: fb.SplineAutoregressive(made(3, 8, (5,), [1, 2, 0], dtype=t.name), bins=3),
    ),
    "autoregressive-spline-context": (
        (2,),
        lambda t: fb.SplineAutoregressive(made(2, 8, (5,), context=2, dtype=t.name), bins=3),
        2,
    ),
    "autoregressive-mixture": (
        (3,),
        lambda t: fb.MaskedAutoregressive(made(3, 8, (5,), dtype=t.name), LogisticMixtureCDF(2)),
    ),
    "autoregressive-circular": (
        (3,),
        lambda t: fb.MaskedAutoregressive(
            made(3, 9, (5,), dtype=t.name, inputs_per_entry=2),
            RationalQuadraticSpline(3, circular=True),
        ),
    ),
    "autoregressive-repeat": (
        (3,),
        lambda t: fb.Repeat(fb.MaskedAutoregressive(made(3, 2, (6,), dtype=t.name)), 2),
    ),
    "rotation": ((3,), lambda t: fb.Rotation(3, 0, bound=9.0, dtype=t)),
    "residual": ((3,), lambda t: fb.Residual(lipschitz_mlp(3, (5,), 0.5, dtype=t.name))),
    "residual-elu-single": (
        (1,),
        lambda t: fb.Residual(lipschitz_mlp(1, (5,), 0.5, "elu", dtype=t.name)),
    ),
    "residual-context": (
        (3,),
        lambda t: fb.Residual(lipschitz_mlp(3, (5,), 0.5, context=2, dtype=t.name)),
        2,
    ),
    "residual-flow": (
        (2,),
        lambda t: flows.residual((2,), 1, 4, bound=0.5, dtype=t).bijector,
    ),
    "ode-adaptive": (
        (2,),
        lambda t: fb.ContinuousFlow(
            mlp(2, 2, (3,), "tanh", context=1, dtype=t.name),
            initial_time=0.5,
            final_time=1.0,
            **tight(t),
        ),
    ),
    "ode-hutchinson-backwards": (  # exact for an event of one entry
        (1,),
        lambda t: fb.ContinuousFlow(
            mlp(1, 1, (3,), "tanh", context=1, dtype=t.name),
            trace="hutchinson",
            initial_time=0.5,
            final_time=0.0,
            **tight(t),
        ),
    ),
    "ode-image": (
        (2, 2, 1),
        lambda t: fb.ContinuousFlow(waves, 3, solver="fixed", num_steps=40, final_time=0.5),
    ),
    "ode-ffjord": ((2,), lambda t: flows.ffjord((2,), (3,), solver="fixed", dtype=t).bijector),
    "ode-ffjord-context": (
        (2,),
        lambda t: flows.ffjord((2,), (3,), context_shape=2, **tight(t), dtype=t).bijector,
        2,
    ),
    "actnorm": ((2, 2, 3), lambda t: fb.ActNorm(3, t)),
    "actnorm-elements": ((2, 2, 3), lambda t: fb.ActNorm((2, 2, 3), t)),
    "conv1x1": ((2, 3, 4), lambda t: fb.Invertible1x1Conv(4, 0, t)),
    "conv1x1-vector": ((5,), lambda t: fb.Invertible1x1Conv(5, 1, t)),
    "conv1x1-single": ((1,), lambda t: fb.Invertible1x1Conv(1, 2, t)),
    "householder": ((2, 3, 4), lambda t: fb.Householder(4, 3, seed=0, dtype=t)),
    "householder-single": ((1,), lambda t: fb.Householder(1, seed=0, dtype=t)),
    "qr": ((2, 4), lambda t: fb.QRLinear(4, seed=0, dtype=t)),
    "qr-in-a-matrix": (
        (4,),
        lambda t: fb.Chain(
            [fb.ActNorm(4, t), fb.QRLinear(4, 2, seed=0, dtype=t), fb.Householder(4, 1, 1, t)]
        ),
    ),
    "batchnorm": ((2, 2, 3), lambda t: fb.BatchNorm(3, dtype=t)),
    "batchnorm-elements": ((2, 3), lambda t: fb.BatchNorm((2, 3), dtype=t)),
    "logit": ((2, 3), lambda t: fb.Logit(low=-0.5, high=0.5)),
    "planar": ((3,), lambda t: fb.Planar(3, seed=0, dtype=t)),
    "radial": ((3,), lambda t: fb.Radial(3, seed=0, dtype=t)),
    "radial-single": ((1,), lambda t: fb.Radial(1, seed=0, dtype=t)),
    "sylvester": ((4,), lambda t: fb.Sylvester(4, 3, seed=0, dtype=t)),
    "sylvester-single": ((2,), lambda t: fb.Sylvester(2, 1, seed=0, dtype=t)),
    "context-planar": (
        (3,),
        lambda t: fb.Planar(3, mlp(2, 7, (5,), dtype=t.name), seed=0, dtype=t),
        2,
    ),
    "context-radial": (
        (3,),
        lambda t: fb.Radial(3, mlp(2, 5, (5,), dtype=t.name), seed=0, dtype=t),
        2,
    ),
    "context-sylvester": (
        (3,),
        lambda t: fb.Sylvester(3, 2, mlp(2, 14, (5,), dtype=t.name), seed=0, dtype=t),
        2,
    ),
    "planar-flow": ((3,), lambda t: flows.planar((3,), 2, seed=0, dtype=t).bijector),
    "sylvester-flow-context": (
        (3,),
        lambda t: (
            flows.sylvester((3,), 2, rank=2, hidden=4, context_shape=2, seed=0, dtype=t).bijector
        ),
        2,
    ),
    "squeeze": ((2, 1, 4), lambda t: fb.Squeeze()),
    "squeeze-3": ((1, 1, 9), lambda t: fb.Squeeze(3)),
    "chain-with-tfp": (
        (4,),
        lambda t: fb.Chain(
            [
                tfb.Scale(tf.Variable(tf.constant(2.0, t))),
                fb.ActNorm(4, t),
                tfb.Softplus(),
                tfb.Chain([affine(Linear(2, 4, t)), fb.Invertible1x1Conv(4, 3, t)]),
                tfb.Invert(affine(Linear(2, 4, t), swap=True)),
            ]
        ),
    ),
    "chain-reshape": (
        (8,),
        lambda t: fb.Chain([fb.Squeeze(), tfb.Reshape([2, 1, 4], [8]), fb.ActNorm(8, t)]),
    ),
    "chain-reversible": ((4,), lambda t: fb.Chain([step(t), tfb.Softplus(), step(t)], True)),
    "repeat-reversible": ((4,), lambda t: fb.Repeat(step(t), 2, reversible=True)),
    "repeat-unrolled": ((4,), lambda t: fb.Repeat(step(t), 2, unroll=True)),
    "repeat-image": (
        (2, 2, 4),
        lambda t: fb.Repeat(
            lambda: affine(conv((2, 2, 2), 4, 3, dtype=t.name), mask="channel"), 2, True
        ),
    ),
    "repeat-tfp": ((4,), lambda t: fb.Repeat(tfb.Invert(affine(Linear(2, 4, t))), 2)),
    "multiscale": ((16,), multiscale),
    "tfp-chain": ((4,), lambda t: tfb.Chain([affine(Linear(2, 4, t)), fb.ActNorm(4, t)])),
    "tfp-invert": ((4,), lambda t: tfb.Invert(affine(Linear(2, 4, t)))),
    "nice": ((5,), lambda t: flows.nice((5,), 2, (4,), dtype=t).bijector),
    "real_nvp": ((4,), lambda t: flows.real_nvp((4,), 2, (4,), dtype=t).bijector),
    "real_nvp-odd": ((3,), lambda t: flows.real_nvp((3,), 2, (4,), dtype=t).bijector),
    "real_nvp-image": (
        (16,),
        lambda t: flows.real_nvp((4, 4, 1), hidden=2, blocks=1, dtype=t).bijector,
    ),
    "glow": ((16,), lambda t: flows.glow((4, 4, 1), 2, 1, 3, seed=0, dtype=t).bijector),
    "glow-reversible": (
        (4,),
        lambda t: flows.glow((2, 2, 1), 1, 2, 3, reversible=True, seed=0, dtype=t).bijector,
    ),
    "glow-unrolled": (
        (4,),
        lambda t: flows.glow((2, 2, 1), 1, 1, 3, stacked=False, seed=0, dtype=t).bijector,
    ),
    "neural_spline-context": (
        (4,),
        lambda t: flows.neural_spline((4,), 2, (4,), 4, context_shape=2, seed=0, dtype=t).bijector,
        2,
    ),
    "neural_spline-image": (
        (4,),
        lambda t: flows.neural_spline((2, 2, 1), 1, 3, 3, levels=1, seed=0, dtype=t).bijector,
    ),
    "neural_spline-circular": (
        (3,),
        lambda t: flows.neural_spline((3,), 2, (4,), 4, circular=True, seed=0, dtype=t).bijector,
    ),
    "maf": ((3,), lambda t: flows.maf((3,), 2, (4,), dtype=t).bijector),
    "maf-spline-context": (
        (3,),
        lambda t: (
            flows.maf(
                (3,), 2, (4,), "spline", 3, order="random", context_shape=2, seed=0, dtype=t
            ).bijector
        ),
        2,
    ),
    "iaf": ((3,), lambda t: flows.iaf((3,), 3, (4,), dtype=t).bijector),
    "iaf-context": (
        (3,),
        lambda t: flows.iaf((3,), 1, (4,), context_shape=2, dtype=t).bijector,
        2,
    ),
    "nice-context": (
        (5,),
        lambda t: flows.nice((5,), 2, (4,), context_shape=2, dtype=t).bijector,
        2,
    ),
    "real_nvp-context": (
        (4,),
        lambda t: flows.real_nvp((4,), 2, (4,), context_shape=2, dtype=t).bijector,
        2,
    ),
    "glow-context": (
        (16,),
        lambda t: flows.glow((4, 4, 1), 2, 1, 3, context_shape=2, seed=0, dtype=t).bijector,
        2,
    ),
    "mixture-half": (
        (4,),
        lambda t: fb.MixtureCDFCoupling(mlp(2, 22, (5,), dtype=t.name), components=3),
    ),
    "mixture-image-checkerboard": (
        (2, 2, 2),
        lambda t: fb.MixtureCDFCoupling(
            conv((2, 2, 2), 16, 3, dtype=t.name), "checkerboard", swap=True, components=2
        ),
    ),
    "mixture-context": (
        (4,),
        lambda t: fb.MixtureCDFCoupling(mlp(2, 16, (5,), context=2, dtype=t.name), components=2),
        2,
    ),
    "mixture-invert-context": (
        (4,),
        lambda t: fb.Invert(
            fb.MixtureCDFCoupling(mlp(2, 16, (5,), context=2, dtype=t.name), components=2)
        ),
        2,
    ),
    "flow_plus_plus-reversible": (
        (4,),
        lambda t: (
            flows.flow_plus_plus(
                (4,), 2, (4,), 2, stacked=False, reversible=True, seed=0, dtype=t
            ).bijector
        ),
    ),
    "flow_plus_plus-context": (
        (4,),
        lambda t: flows.flow_plus_plus((4,), 2, (4,), 2, context_shape=2, seed=0, dtype=t).bijector,
        2,
    ),
    "flow_plus_plus-image": (
        (4,),
        lambda t: (
            flows.flow_plus_plus(
                (2, 2, 1), hidden=2, components=2, couplings=(1, 1, 0), blocks=1, seed=0, dtype=t
            ).bijector
        ),
    ),
    "dequantizer": (
        (2, 2, 1),
        lambda t: flows.dequantizer((2, 2, 1), 2, 2, 2, dtype=t).bijector,
        4,
    ),
}


# Names that begin so search for one direction, and evaluate networks as often as that takes.
SEARCHES = ("residual", "autoregressive", "maf")

# Here it is the density that searches.
SEARCHED_DENSITIES = ("iaf",)

# Names that begin so solve differential equations, and evaluate networks often in any direction.
SOLVES = ("ode",)


# XLA takes seconds to compile a case: these always, the others with the slow tests.
XLA_ALWAYS = (
    "additive-half",
    "affine-half",
    "affine-channel",
    "affine-image-array",
    "affine-context",
    "spline-half",
    "actnorm",
    "conv1x1",
    "qr",
    "squeeze",
    "chain-reversible",
    "repeat-reversible",
    "repeat-unrolled",
    "multiscale",
    "planar",
    "mixture-half",
    "real_nvp",
    "tfp-chain",
)


# Names that begin so take long: they are tested with the slow tests.
SLOW = (
    "autoregressive-repeat",
    "autoregressive-spline-context",
    "dequantizer",
    "flow_plus_plus",
    "glow-",
    "iaf",
    "maf",
    "mixture-image",
    "neural_spline",
    "nice-context",
    "ode-ffjord",
    "ode-hutchinson",
    "ode-image",
    "planar-flow",
    "real_nvp-context",
    "real_nvp-image",
    "residual-context",
    "residual-flow",
    "sylvester-flow",
)


def each(names, quick=lambda name: not name.startswith(SLOW)):
    """A test for each name; those that are not quick run with the slow tests."""
    marks = {name: () if quick(name) else pytest.mark.slow for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks[n]) for n in names])


def make(name: str, dtype: tf.DType) -> tuple[tfb.Bijector, tf.Tensor, dict[str, tf.Tensor]]:
    """A bijector with variables away from their start, latents for it, and `{"context": ...}`."""
    shape, build, *width = BIJECTORS[name]
    bijector = build(dtype)
    random = np.random.RandomState(7)
    x = tf.constant(random.normal(size=(3, *shape)), dtype)
    kwargs = {"context": tf.constant(random.normal(size=(3, *width)), dtype)} if width else {}
    bijector.forward(x, **kwargs)  # builds what is lazy
    for variable in bijector.trainable_variables:
        variable.assign_add(tf.constant(random.normal(size=variable.shape) * 0.1, variable.dtype))
    return bijector, x, kwargs
