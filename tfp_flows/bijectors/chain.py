"""Composition that evaluates each part once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.channel_affine import fold
from tfp_flows.bijectors.logit import Logit
from tfp_flows.core import FlowBijector, private
from tfp_flows.core.bijector import visit_parts
from tfp_flows.core.reversible import (
    NO_SECOND,
    add_gradients,
    recompute_input,
    with_recomputed_gradient,
)
from tfp_flows.core.stack import validate_repeatable
from tfp_flows.core.support import both, inverse_within, is_formula
from tfp_flows.core.tracing import InGraph

tfb = tfp.bijectors


class Chain(FlowBijector):
    r"""Composes bijectors, ours and TFP's: `Chain([f, g]).forward(x) = f(g(x))`.

    $$ \log|\det J_{f \circ g}(x)| = \log|\det J_g(x)| + \log|\det J_f(g(x))| $$

    As `tfb.Chain`, but a log-prob runs each part once, values are never stale (TFP's own
    bijectors inside included), and one `context=` reaches every part of ours.

    Args:
      bijectors: applied from last to first by `forward`.
      reversible: train by inversion: the gradient keeps the output alone and rebuilds what is
        between from it, so that memory does not grow with the number of parts. It costs about a
        third more time; use `Repeat` where the parts are equal.
      name: name of the bijector.

    Raises:
      TypeError: a part is no injective `tfb.Bijector`.
      ValueError: `reversible` with a random layer of tf_keras, which cannot repeat its draws.

    Example:
      >>> chain = Chain([tfb.Shift(1.0), tfb.Scale(2.0)])
      >>> float(chain.forward(3.0))
      7.0
    """

    def __init__(
        self,
        bijectors: Sequence[tfb.Bijector],
        reversible: bool = False,
        name: str = "chain",
    ):
        parameters = dict(locals())
        bijectors = list(bijectors)
        for b in bijectors:
            if not isinstance(b, tfb.Bijector) or not private.is_injective(b):
                raise TypeError(f"Chain takes injective tfb.Bijector instances, got {b!r}.")
        # TFP's own chain knows all about ranks, shapes and dtypes of compositions.
        self._shapes = tfb.Chain(bijectors)
        super().__init__(
            forward_min_event_ndims=self._shapes.forward_min_event_ndims,
            inverse_min_event_ndims=self._shapes.inverse_min_event_ndims,
            is_constant_jacobian=self._shapes.is_constant_jacobian,
            parameters=parameters,
            name=name,
        )
        self._bijectors = bijectors
        self._reversible = bool(reversible)
        if reversible:
            validate_repeatable(self)
        self._run_reversibly = self._no_dependency(InGraph(self._with_recomputed_gradient))
        self._folded = self._no_dependency(fold(bijectors))
        self._with_bounds = self._folded
        if reversible:  # bounds of the data are looked at before what is rebuilt
            first = list(itertools.takewhile(_has_bounds, bijectors))
            rest = Chain(bijectors[len(first) :], reversible=True) if first else self
            self._with_bounds = self._no_dependency([*first, rest])

    _TF_MODULE_IGNORED_PROPERTIES = FlowBijector._TF_MODULE_IGNORED_PROPERTIES | {
        "_shapes",
        "_folded",
        "_with_bounds",
        "_run_reversibly",
    }

    @property
    def bijectors(self) -> list[tfb.Bijector]:
        """The parts, in the order given."""
        return list(self._bijectors)

    def _forward_and_log_det(self, x, context):
        return self._evaluate(x, context, forward=True)

    def _inverse_and_log_det(self, y, context):
        return self._evaluate(y, context, forward=False)

    def _evaluate(self, value, context, forward: bool):
        ndims = self.forward_min_event_ndims if forward else self.inverse_min_event_ndims
        if self._reversible:
            return self._run_reversibly(value, context, ndims, forward)
        return self._walk(value, ndims, context, forward)

    def _with_recomputed_gradient(self, value, context, forward: bool):
        ndims = self.forward_min_event_ndims if forward else self.inverse_min_event_ndims

        def evaluate(value, context):
            out, log_det = self._walk(value, ndims, context, forward)
            return out, log_det + tf.zeros(tf.shape(value)[: value.shape.rank - ndims], out.dtype)

        def recompute_inputs(out, d_out, d_log_det, sources, context):
            return self._recompute(out, d_out, d_log_det, ndims, sources, context, forward)

        return with_recomputed_gradient(
            evaluate, recompute_inputs, self.variables, value, context, NO_SECOND
        )

    def _walk(self, value, event_ndims: int, context, forward: bool):
        total = tf.zeros([], value.dtype)
        for b, ndims in self._path(event_ndims, forward):
            value, log_det = _step(b, value, ndims, context, forward)
            total += log_det
        return value, total

    def _path(self, event_ndims: int, forward: bool) -> list[tuple[tfb.Bijector, int]]:
        return _path(self._folded, event_ndims, forward)

    def _recompute(self, out, d_out, d_log_det, event_ndims, sources, context, forward):
        d_sources = [None] * len(sources)
        for b, ndims in reversed(self._path(event_ndims, forward)):
            # Or the executor would rebuild everything first, and nothing would be saved.
            with tf.control_dependencies([d_out]):
                out = tf.identity(out)
            out, d_out, d_more = _recompute_part(
                b, out, d_out, d_log_det, ndims, sources, context, forward
            )
            d_sources = add_gradients(d_sources, d_more)
        return out, d_out, d_sources

    def inverse_within(self, y, event_ndims, context=None):
        if self._with_bounds == [self]:
            return super().inverse_within(y, event_ndims, context)
        y, inside = tf.convert_to_tensor(y), None
        total = tf.zeros([], y.dtype)
        for b, ndims in _path(self._with_bounds, event_ndims, forward=False):
            if isinstance(b, FlowBijector):
                y, log_det, more = b.inverse_within(y, ndims, context)
            elif is_formula(b):
                y, log_det, more = inverse_within(b, y, ndims)
            else:
                (y, log_det), more = _step(b, y, ndims, context, forward=False), None
            total, inside = total + log_det, both(inside, more)
        return y, total, inside

    def _initialize(self, y, context):
        for b in self._bijectors:
            y = b._initialize(y, context) if isinstance(b, FlowBijector) else b.inverse(y)
        return y

    def visit(self, y, context, path, visitor):
        return visit_parts(self._bijectors, y, context, path, visitor)

    def _forward_event_shape(self, shape):
        return self._shapes.forward_event_shape(shape)

    def _forward_event_shape_tensor(self, shape):
        return self._shapes.forward_event_shape_tensor(shape)

    def _inverse_event_shape(self, shape):
        return self._shapes.inverse_event_shape(shape)

    def _inverse_event_shape_tensor(self, shape):
        return self._shapes.inverse_event_shape_tensor(shape)

    def _is_increasing(self, **kwargs):
        increasing = True
        for b in self._bijectors:
            given = kwargs if isinstance(b, FlowBijector) else {}
            increasing = tf.equal(increasing, private.is_increasing(b, **given))
        return increasing

    def _forward_dtype(self, dtype, **kwargs):
        return self._shapes.forward_dtype(dtype)

    def _inverse_dtype(self, dtype, **kwargs):
        return self._shapes.inverse_dtype(dtype)

    def _batch_shape(self, x_event_ndims):
        return self._shapes.experimental_batch_shape(x_event_ndims=x_event_ndims)

    def _batch_shape_tensor(self, x_event_ndims):
        return self._shapes.experimental_batch_shape_tensor(x_event_ndims=x_event_ndims)

    def _describe(self):
        return ", ".join(repr(b) for b in self._bijectors)


def _path(
    bijectors: list[tfb.Bijector], event_ndims: int, forward: bool
) -> list[tuple[tfb.Bijector, int]]:
    """The parts in the order of evaluation, each with the event's rank before it."""
    path = []
    for b in reversed(bijectors) if forward else bijectors:
        path.append((b, event_ndims))
        after = b.forward_event_ndims if forward else b.inverse_event_ndims
        event_ndims = after(event_ndims)
    return path


def _has_bounds(b: tfb.Bijector) -> bool:
    """Whether the bounds of its data are found without a network."""
    if isinstance(b, Chain):
        return all(_has_bounds(part) for part in b.bijectors)
    return is_formula(b) or isinstance(b, Logit)


def _step(b: tfb.Bijector, value, event_ndims: int, context, forward: bool):
    """One part's value and log-det."""
    if isinstance(b, FlowBijector):
        both = b.forward_and_log_det if forward else b.inverse_and_log_det
        return both(value, event_ndims, context)
    if context is not None and any(isinstance(m, FlowBijector) for m in b.submodules):
        raise ValueError(
            f"The context does not reach what is inside TFP's {b.name}. Put its parts into "
            "this Chain, or into a Chain of their own."
        )
    value = tf.identity(value)  # a tensor that TFP's cache has not seen is never stale
    if forward:
        return b.forward(value), b.forward_log_det_jacobian(value, event_ndims)
    return b.inverse(value), b.inverse_log_det_jacobian(value, event_ndims)


def _recompute_part(b, out, d_out, d_log_det, event_ndims, sources, context, forward):
    if isinstance(b, FlowBijector):
        return b._recompute(out, d_out, d_log_det, event_ndims, sources, context, forward)
    return recompute_input(
        lambda value: _step(b, value, event_ndims, context, forward),
        lambda out: b.inverse(out) if forward else b.forward(out),
        out,
        d_out,
        d_log_det,
        sources,
    )
