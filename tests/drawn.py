"""Every family of bijectors, made from what hypothesis draws: what the property tests run over.

A family takes `draw`, a dtype and a seed, and returns a `Case`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import strategies as st

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import lipschitz_mlp, made
from tfp_flows.transformers import LogisticMixtureCDF, RationalQuadraticSpline
from tfp_flows.transformers.affine import SCALE_MAPS

tfb = tfp.bijectors


ALL_SCALES = tuple(sorted(SCALE_MAPS))


class Net(tf.Module):
    """A conditioner of the last axis, with weights from a seed."""

    def __init__(self, inputs, outputs, context, dtype, seed):
        super().__init__()
        random = np.random.RandomState(seed)
        shapes = [(inputs, 5), (max(context, 1), 5), (5, outputs), (outputs,)]
        self.weights = [tf.Variable(random.normal(size=s) * 0.4, dtype=dtype) for s in shapes]

    def __call__(self, x, context=None):
        first, of_context, second, bias = (tf.cast(w, x.dtype) for w in self.weights)
        hidden = tf.tensordot(x, first, 1)
        if context is not None:
            hidden += tf.matmul(context, of_context)
        return tf.tensordot(tf.nn.relu(hidden), second, 1) + bias


class Case(NamedTuple):
    bijector: tfb.Bijector
    event: tuple[int, ...]  # of the latent side
    context: int = 0  # its width; 0 for none
    bound: float | None = None  # the size of an argument at most
    data_bound: float | None = None  # the same, on the data side


SIZES = st.integers(1, 4)
SEEDS = st.integers(0, 2**31 - 2)


@st.composite
def masked_events(draw):
    """An event's shape, a mask, swap, and the sizes of what the network gets and transforms."""
    event = (*draw(st.lists(SIZES, max_size=2)), draw(st.integers(2, 5)))
    kinds = ["alternate", "last axis", "whole event"] + ["half"] * (event[-1] % 2 == 0)
    kinds += ["checkerboard"] * (len(event) == 3 and event[0] * event[1] > 1)
    kinds += ["channel"] * (len(event) == 3 and event[-1] % 2 == 0)
    mask, last = draw(st.sampled_from(kinds)), event[-1]
    if mask in ("last axis", "whole event"):
        shape = event if mask == "whole event" else event[-1:]
        entries = draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=64))
        mask = np.resize(entries, shape)
        mask.flat[:2] = [True, False]  # neither part may be empty
    swap = draw(st.booleans())
    if np.ndim(mask) > 1 or (isinstance(mask, str) and mask == "checkerboard"):
        return event, mask, swap, last, last
    sizes = {"half": last // 2, "channel": last // 2, "alternate": (last + 1) // 2}
    identity = sizes[mask] if isinstance(mask, str) else int(mask.sum())
    identity = last - identity if swap else identity
    return event, mask, swap, identity, last - identity


def coupling(draw, dtype, seed, make, num_params):
    event, mask, swap, identity, transformed = draw(masked_events())
    context = draw(st.sampled_from([0, 2])) if len(event) == 1 else 0
    net = Net(identity, num_params * transformed, context, dtype, seed)
    return Case(make(net, mask, swap=swap, event_ndims=len(event)), event, context)


def additive(draw, dtype, seed):
    return coupling(draw, dtype, seed, fb.AdditiveCoupling, 1)


def affine(draw, dtype, seed, scale_maps=ALL_SCALES):
    scale_map = draw(st.sampled_from(scale_maps))

    def make(net, mask, **kwargs):
        return fb.AffineCoupling(net, mask, scale_map=scale_map, **kwargs)

    return coupling(draw, dtype, seed, make, 2)


def spline(draw, dtype, seed):
    bins, bound = draw(st.integers(2, 5)), draw(st.sampled_from([1.0, 3.0, 10.0]))

    def make(net, mask, **kwargs):
        return fb.SplineCoupling(net, mask, bins=bins, bound=bound, **kwargs)

    return coupling(draw, dtype, seed, make, 3 * bins - 1)


def circular_spline(draw, dtype, seed):
    event, mask, swap, identity, transformed = draw(masked_events())
    bins = draw(st.integers(2, 4))
    net = Net(2 * identity, 3 * bins * transformed, 0, dtype, seed)
    b = fb.SplineCoupling(net, mask, swap, bins, 2.0, event_ndims=len(event), circular=True)
    return Case(b, event, bound=2.0, data_bound=2.0)


def mixture(draw, dtype, seed):
    components = draw(st.integers(1, 3))

    def make(net, mask, **kwargs):
        return fb.MixtureCDFCoupling(net, mask, components=components, **kwargs)

    return coupling(draw, dtype, seed, make, 2 + 3 * components)


def masked(features, num_params, dtype, seed, inputs_per_entry=1):
    settings = {"seed": seed % 2**31, "dtype": dtype.name, "inputs_per_entry": inputs_per_entry}
    net = made(features, num_params, (5,), "random", **settings)
    random = np.random.RandomState(seed)
    for variable in net.trainable_variables:
        variable.assign_add(random.normal(size=variable.shape) * 0.3)
    return net


def autoregressive(draw, dtype, seed):
    features = draw(SIZES)
    return Case(fb.MaskedAutoregressive(masked(features, 2, dtype, seed)), (features,))


def spline_autoregressive(draw, dtype, seed):
    features = draw(SIZES)
    b = fb.SplineAutoregressive(masked(features, 8, dtype, seed), bins=3)
    return Case(fb.Invert(b) if draw(st.booleans()) else b, (features,))


def mixture_autoregressive(draw, dtype, seed):
    features, transformer = draw(SIZES), LogisticMixtureCDF(draw(st.integers(1, 3)))
    net = masked(features, transformer.num_params, dtype, seed)
    return Case(fb.MaskedAutoregressive(net, transformer), (features,))


def circular_autoregressive(draw, dtype, seed):
    features = draw(SIZES)
    transformer = RationalQuadraticSpline(draw(st.integers(2, 4)), 2.0, circular=True)
    net = masked(features, transformer.num_params, dtype, seed, inputs_per_entry=2)
    b = fb.MaskedAutoregressive(net, transformer)
    return Case(b, (features,), bound=2.0, data_bound=2.0)


def moved(bijector, seed):
    random = np.random.RandomState(seed)
    for variable in bijector.trainable_variables:
        variable.assign_add(tf.constant(random.normal(size=variable.shape) * 0.4, variable.dtype))
    return bijector


def layer(make):
    """A family that takes the size of the last axis."""

    def family(draw, dtype, seed):
        event = (*draw(st.lists(SIZES, max_size=2)), draw(SIZES))
        return Case(moved(make(event[-1], seed, dtype), seed), event)

    return family


def vector_layer(make):
    def family(draw, dtype, seed):
        features = draw(SIZES)
        return Case(moved(make(features, seed, dtype), seed), (features,))

    return family


def sylvester(draw, dtype, seed):
    features = draw(SIZES)
    rank = draw(st.integers(1, features))
    return Case(moved(fb.Sylvester(features, rank, seed=seed, dtype=dtype), seed), (features,))


def rotation(draw, dtype, seed):
    features = draw(SIZES)
    b = fb.Rotation(features, seed=seed, bound=2.0, dtype=dtype)
    return Case(b, (features,), bound=2.0, data_bound=2.0)


def logit(draw, dtype, seed):
    return Case(fb.Logit(low=-1.0, high=1.0), tuple(draw(st.lists(SIZES, max_size=3))), 0, 4.0, 1.0)


def squeeze(draw, dtype, seed):
    factor, (h, w, c) = draw(st.sampled_from([2, 3])), (draw(SIZES), draw(SIZES), draw(SIZES))
    return Case(fb.Squeeze(factor), (h, w, factor**2 * c))


def multiscale(draw, dtype, seed):
    h, w, c = (4 * draw(st.integers(1, 2)) for _ in range(3))
    parts = [
        fb.Chain([fb.Squeeze(), moved(fb.ActNorm(4 * c, dtype), seed)]),
        fb.Chain([fb.Squeeze(), fb.Invertible1x1Conv(8 * c, seed, dtype)]),
    ]
    return Case(fb.MultiScale(parts, (h, w, c)), (h * w * c,))


def chain(draw, dtype, seed, **kwargs):
    part = affine(draw, dtype, seed, **kwargs)
    actnorm = moved(fb.ActNorm(part.event[-1], dtype), seed)
    second = fb.Invert(part.bijector) if draw(st.booleans()) else part.bijector
    # A context does not pass through TFP's.
    container = fb.Chain if part.context else draw(st.sampled_from([fb.Chain, tfb.Chain]))
    return part._replace(bijector=container([actnorm, second]))


def residual(draw, dtype, seed):
    features = draw(SIZES)
    return Case(fb.Residual(lipschitz_mlp(features, (5,), 0.5, dtype=dtype.name)), (features,))


def repeat(draw, dtype, seed):
    # Scales near zero, three times in a row, leave no digit for the inverse.
    part = chain(draw, dtype, seed, scale_maps=("clamp", "exp_tanh"))
    return part._replace(bijector=moved(fb.Repeat(part.bijector, draw(st.integers(1, 3))), seed))


FAMILIES = {
    "additive": additive,
    "affine": affine,
    "spline": spline,
    "spline-circular": circular_spline,
    "mixture": mixture,
    "autoregressive": autoregressive,
    "autoregressive-spline": spline_autoregressive,
    "autoregressive-mixture": mixture_autoregressive,
    "autoregressive-circular": circular_autoregressive,
    "actnorm": layer(lambda n, seed, dtype: fb.ActNorm(n, dtype)),
    "batchnorm": layer(lambda n, seed, dtype: fb.BatchNorm(n, dtype=dtype)),
    "conv1x1": layer(fb.Invertible1x1Conv),
    "householder": layer(lambda n, seed, dtype: fb.Householder(n, None, seed, dtype)),
    "qr": layer(lambda n, seed, dtype: fb.QRLinear(n, None, seed, dtype)),
    "planar": vector_layer(lambda n, seed, dtype: fb.Planar(n, seed=seed, dtype=dtype)),
    "radial": vector_layer(lambda n, seed, dtype: fb.Radial(n, seed=seed, dtype=dtype)),
    "sylvester": sylvester,
    "rotation": rotation,
    "logit": logit,
    "squeeze": squeeze,
    "multiscale": multiscale,
    "chain": chain,
    "residual": residual,
    "repeat": repeat,
}
