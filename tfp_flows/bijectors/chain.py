"""Composition of bijectors, which evaluates each part once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.channel_affine import fold
from tfp_flows.bijectors.logit import Logit
from tfp_flows.core import FlowBijector, private
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.delegating import Delegating
from tfp_flows.core.evaluation import sharing
from tfp_flows.core.layers import layers_of_chain, visit_chain
from tfp_flows.core.reversible import add_gradients, with_recomputed_gradient
from tfp_flows.core.stack import validate_repeatable
from tfp_flows.core.support import both, inverse_within, is_formula
from tfp_flows.core.tracing import InGraph

tfb = tfp.bijectors


class Chain(Delegating):
    r"""Composes bijectors, ours and TFP's: `Chain([f, g]).forward(x) = f(g(x))`.

    $$ \log|\det J_{f \circ g}(x)| = \log|\det J_g(x)| + \log|\det J_f(g(x))| $$

    As `tfb.Chain`, but a log-prob runs each part once, values are never out of date (nor those of
    TFP's bijectors inside), and one `context=` reaches every part of this package.

    Args:
      bijectors: applied from last to first by `forward`.
      reversible: whether gradients recompute the activations from the output by inversion, so that
        memory does not grow with the number of parts. It costs about a third more time; use
        `Repeat` where the parts are equal.
      name: name of the bijector.

    Raises:
      TypeError: if a part is not an injective `tfb.Bijector`.
      ValueError: if `reversible` and a part has a random layer of tf_keras, which cannot repeat
        its draws.

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
        bijectors = list(bijectors)
        for b in bijectors:
            if not isinstance(b, tfb.Bijector) or not private.is_injective(b):
                raise TypeError(f"Chain takes injective tfb.Bijector instances, got {b!r}.")
        super().__init__(
            shapes=tfb.Chain(bijectors),
            parameters={"bijectors": bijectors, "reversible": reversible, "name": name},
            name=name,
        )
        self._bijectors = bijectors
        self._reversible = bool(reversible)
        self._evaluate_reversibly = self._no_dependency(InGraph(self._with_recomputed_gradient))
        parts = [b if isinstance(b, FlowBijector) else OfTFP(b) for b in bijectors]
        self._folded = self._no_dependency(fold(parts))
        self._with_bounds = self._folded
        if reversible:
            validate_repeatable(self)
            # Bounds of the data are checked before what is recomputed.
            first = list(itertools.takewhile(_has_bounds, parts))
            rest = Chain(bijectors[len(first) :], reversible=True) if first else self
            self._with_bounds = self._no_dependency([*first, rest])

    _TF_MODULE_IGNORED_PROPERTIES = Delegating._TF_MODULE_IGNORED_PROPERTIES | {
        "_folded",
        "_with_bounds",
        "_evaluate_reversibly",
    }

    @property
    def bijectors(self) -> list[tfb.Bijector]:
        """The parts, in the order given."""
        return list(self._bijectors)

    def _evaluate(
        self, value: tf.Tensor, context: Context, forward: bool, reversible: bool | None = None
    ) -> Pair:
        ndims = self.forward_min_event_ndims if forward else self.inverse_min_event_ndims
        if self._reversible if reversible is None else reversible:
            return self._evaluate_reversibly(value, context, ndims, forward)
        total = tf.zeros([], value.dtype)
        for b, event_ndims in _path(self._folded, ndims, forward):
            evaluate = b.forward_and_log_det if forward else b.inverse_and_log_det
            value, log_det = evaluate(value, event_ndims, context)
            total += log_det
        return value, total

    _forward_and_log_det = functools.partialmethod(_evaluate, forward=True)
    _inverse_and_log_det = functools.partialmethod(_evaluate, forward=False)

    def _with_recomputed_gradient(self, value: tf.Tensor, context: Context, forward: bool) -> Pair:
        ndims = self.forward_min_event_ndims if forward else self.inverse_min_event_ndims

        def evaluate(value, context):
            out, log_det = self._evaluate(value, context, forward, reversible=False)
            return out, log_det + tf.zeros(tf.shape(value)[: value.shape.rank - ndims], out.dtype)

        def recompute_inputs(out, d_out, d_log_det, sources, context):
            return self._recompute(out, d_out, d_log_det, ndims, sources, context, forward)

        return with_recomputed_gradient(evaluate, recompute_inputs, self.variables, value, context)

    def _recompute(self, out, d_out, d_log_det, event_ndims, sources, context, forward):
        d_sources = [None] * len(sources)
        for b, ndims in reversed(_path(self._folded, event_ndims, forward)):
            # Or the executor would recompute everything first, and nothing would be saved.
            with tf.control_dependencies([d_out]):
                out = tf.identity(out)
            out, d_out, d_more = b._recompute(
                out, d_out, d_log_det, ndims, sources, context, forward
            )
            d_sources = add_gradients(d_sources, d_more)
        return out, d_out, d_sources

    def inverse_within(self, y, event_ndims, context=None):
        if self._with_bounds == [self]:
            return super().inverse_within(y, event_ndims, context)
        y, inside = tf.convert_to_tensor(y), None
        total = tf.zeros([], y.dtype)
        for b, ndims in _path(self._with_bounds, event_ndims, forward=False):
            y, log_det, more = b.inverse_within(y, ndims, context)
            total, inside = total + log_det, both(inside, more)
        return y, total, inside

    def _initialize(self, y, context):
        for b in self._bijectors:
            y = b._initialize(y, context) if isinstance(b, FlowBijector) else b.inverse(y)
        return y

    def layers(self, path):
        return layers_of_chain(self._bijectors, path)

    def visit_layers(self, y, context, measure, found):
        return visit_chain(self._bijectors, y, context, measure, found)

    def _is_increasing(self, **kwargs):
        increasing = True
        for b in self._bijectors:
            given = kwargs if isinstance(b, FlowBijector) else {}
            increasing = tf.equal(increasing, private.is_increasing(b, **given))
        return increasing

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


def _has_bounds(b: FlowBijector) -> bool:
    """Whether the bounds of its data are found without a network."""
    if isinstance(b, Chain):
        return all(_has_bounds(part) for part in b._folded)
    return isinstance(b, Logit) or (isinstance(b, OfTFP) and b.is_formula)


class OfTFP(Delegating):
    """A bijector of TFP in a `Chain`.

    Args:
      bijector: any injective `tfb.Bijector`.
    """

    def __init__(self, bijector: tfb.Bijector):
        super().__init__(shapes=bijector, parameters={}, name=bijector.name)
        self._bijector = bijector
        self.is_formula = is_formula(bijector)
        self._holds_ours = any(isinstance(m, FlowBijector) for m in bijector.submodules)

    def _forward_and_log_det(self, x, context):
        self._check_no_context(context)
        x = tf.identity(x)  # TFP's cache, which may be out of date, has not seen this tensor
        with sharing():
            return self._bijector.forward(x), self._bijector.forward_log_det_jacobian(x)

    def _inverse_and_log_det(self, y, context):
        self._check_no_context(context)
        y = tf.identity(y)
        with sharing():
            return self._bijector.inverse(y), self._bijector.inverse_log_det_jacobian(y)

    def _check_no_context(self, context: Context) -> None:
        if context is not None and self._holds_ours:
            raise ValueError(
                f"The context does not reach what is inside TFP's {self.name}. Put its parts into "
                "this Chain, or into a Chain of their own."
            )

    def inverse_within(self, y, event_ndims, context=None):
        if self.is_formula:
            return inverse_within(self._bijector, y, event_ndims)
        return super().inverse_within(y, event_ndims, context)
