"""Many equal steps as one loop: start-up and graph do not grow with depth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.chain import Chain
from tfp_flows.core import FlowBijector, private
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.evaluation import add_penalty, current, summing_penalties
from tfp_flows.core.init_state import InitState, init_states_in
from tfp_flows.core.reversible import add_gradients, with_recomputed_gradient
from tfp_flows.core.shapes import like
from tfp_flows.core.stack import Stack, validate_repeatable
from tfp_flows.core.tracing import InGraph, run_in_graph

tfb = tfp.bijectors


class Repeat(FlowBijector):
    r"""`count` equal steps with parameters of their own, run as one loop.

    $$ f = f_{\theta_1} \circ \dots \circ f_{\theta_n}, \qquad
       \log|\det J_f| = \textstyle\sum_i \log|\det J_{f_{\theta_i}}| $$

    It computes what a `Chain` of `count` such bijectors does, but the graph holds a single step,
    and a parameter of all steps is one variable `[count, ...]`. So tracing, compiling and optimizer
    updates cost the same for 4 steps as for 40, and with `reversible=True` memory does too.
    Networks of any kind will do, with dropout too, as long as they are built and do not update
    weights when they are called (as batch normalisation does).

    Args:
      bijector: one step, which keeps the shape of its event. Each step draws what starts at random:
        in bijectors of this package, and in Keras layers that hold their initialisers; all else
        starts at the values given. Or a function that makes a step, and is called `count` times:
        slower, and right for parts of any kind.
      count: how many steps.
      reversible: whether gradients recompute the activations from the output by inversion.
      unroll: whether every step gets a place of its own in the graph. For small steps, where the
        cost of a loop would show; start-up then grows with `count`, optimizer updates do not.
      stacked: variables to use in place of new ones, by their path in a step.
      name: name of the bijector.

    Raises:
      ValueError: if `count` < 1; if the steps differ in structure, or change the shape of the
        event; if `reversible` and a step has a random layer of tf_keras, which cannot repeat its
        draws.

    Example:
      >>> from tfp_flows import bijectors as fb
      >>> repeat = fb.Repeat(fb.Chain([fb.ActNorm(4), fb.Invertible1x1Conv(4)]), count=8)
      >>> [v.shape[0] for v in repeat.trainable_variables]
      [8, 8, 8, 8, 8]
    """

    def __init__(
        self,
        bijector: tfb.Bijector | Callable[[], tfb.Bijector],
        count: int,
        reversible: bool = False,
        unroll: bool = False,
        stacked: Mapping[str, tf.Variable] | None = None,
        name: str = "repeat",
    ):
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count}.")
        is_template = isinstance(bijector, tfb.Bijector)
        if stacked is not None:
            template = bijector if is_template else bijector()
            self._stack = Stack(template, stacked, count, f"{name}_steps")
        else:
            stack = Stack.like if is_template else Stack.of
            self._stack = stack(bijector, count, f"{name}_steps")
        step = self._stack.template
        step = step if isinstance(step, FlowBijector) else Chain([step])
        self._step = self._no_dependency(step)
        if step.forward_min_event_ndims != step.inverse_min_event_ndims:
            raise ValueError(f"A repeated step must keep the rank of its event, got {step!r}.")
        self._unroll = bool(unroll)
        evaluate = self._with_recomputed_gradient if reversible else self._evaluate_steps
        self._in_graph = self._no_dependency(InGraph(evaluate))
        self._traced_visit = self._no_dependency(tf.function(self._visited_step, autograph=False))
        super().__init__(
            forward_min_event_ndims=step.forward_min_event_ndims,
            parameters={
                "bijector": self._stack.template,
                "count": count,
                "reversible": reversible,
                "unroll": unroll,
                "stacked": dict(self._stack.variables_by_path),
                "name": name,
            },
            name=name,
        )
        if reversible:
            validate_repeatable(self)

    _TF_MODULE_IGNORED_PROPERTIES = FlowBijector._TF_MODULE_IGNORED_PROPERTIES | {
        "_step",
        "_in_graph",
        "_traced_visit",
    }

    @property
    def bijector(self) -> tfb.Bijector:
        """One step as a template: its shapes count, its values do not."""
        return self._stack.template

    @property
    def count(self) -> int:
        """How many steps there are."""
        return self._stack.count

    def _init_states(self):
        stacked = {id(own): variable for own, variable in self._stack.pairs}
        return [
            InitState(stacked[id(s.flag)], tuple(stacked[id(v)] for v in s.zeros))
            for s in init_states_in((self._step, *self._step.submodules))
        ]

    def _evaluate(self, value: tf.Tensor, context: Context, forward: bool) -> Pair:
        return self._in_graph(value, context, self.forward_min_event_ndims, forward)

    _forward_and_log_det = functools.partialmethod(_evaluate, forward=True)
    _inverse_and_log_det = functools.partialmethod(_evaluate, forward=False)

    def _with_recomputed_gradient(self, value: tf.Tensor, context: Context, forward: bool) -> Pair:
        evaluate = functools.partial(self._evaluate_steps, forward=forward)
        recompute = functools.partial(self._recompute_steps, forward=forward)
        variables = self._stack.stacked
        return with_recomputed_gradient(evaluate, recompute, variables, value, context)

    def _evaluate_steps(self, value: tf.Tensor, context: Context, forward: bool) -> Pair:
        ndims = self.forward_min_event_ndims
        evaluate = self._step.forward_and_log_det if forward else self._step.inverse_and_log_det
        stacked = self._stack.stacked
        # Such as the states of random generators; an evaluation may move them on.
        integers = [p for p, s in enumerate(stacked) if not s.dtype.is_floating]
        moved_on: set[int] = set()

        def body(slices, assigned, value, log_det, penalty):
            with summing_penalties(penalty) as penalties:
                out, more = evaluate(value, ndims, context)
            updated = [stacked[p].name for p in assigned if p not in integers]
            if updated:
                raise ValueError(
                    f"A step of {self.name} updates {', '.join(updated)} when it is called, as "
                    "batch normalisation does; Repeat cannot hold such a step. Use Chain, or "
                    "another normalisation."
                )
            moved_on.update(assigned)
            values = self._same_shape(out, value), like(log_det + more, log_det), penalties()
            return values, [assigned.get(p, slices[p]) for p in integers]

        batch_ndims = value.shape.rank - ndims
        log_det = tf.zeros(tf.shape(value)[:batch_ndims], value.dtype)
        log_det = tf.ensure_shape(log_det, value.shape[:batch_ndims])
        penalty = tf.zeros_like(log_det) if current().collects_penalties else ()
        (out, log_det, penalty), after = self._stack.scan(
            body,
            (value, log_det, penalty),
            [stacked[p] for p in integers],
            reverse=forward,
            unroll=self._unroll,
        )
        if current().collects_penalties:
            add_penalty(penalty)
        for position, new in zip(integers, after, strict=True):
            if position in moved_on:
                stacked[position].assign(new)
        return out, log_det

    def _recompute_steps(
        self,
        out: tf.Tensor,
        d_out: tf.Tensor,
        d_log_det: tf.Tensor,
        _: list[tf.Tensor],  # the stacked variables, which are read slice by slice
        context: Context,
        forward: bool,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """The steps backwards: their inputs from their outputs, and the gradients."""
        ndims = self.forward_min_event_ndims
        stacked = self._stack.stacked
        trained = [p for p, s in enumerate(stacked) if s.trainable and s.dtype.is_floating]
        contexts = [] if context is None else [context]

        def body(slices, _, value, d_value, d_contexts):
            sources = [slices[p] for p in trained] + contexts
            with tf.control_dependencies([d_value]):  # not before its gradient is here
                value = tf.identity(value)
            before, d_before, d_sources = self._step._recompute(
                value, d_value, d_log_det, ndims, sources, context, forward
            )
            found = [
                tf.zeros_like(s) if d is None else d
                for s, d in zip(sources, d_sources, strict=True)
            ]
            d_contexts = add_gradients(d_contexts, found[len(trained) :])
            values = like(before, value), like(d_before, value), d_contexts
            return values, found[: len(trained)]

        (value, d_value, d_contexts), gradients = self._stack.scan(
            body,
            (out, d_out, [tf.zeros_like(c) for c in contexts]),
            [stacked[p] for p in trained],
            reverse=not forward,
            unroll=self._unroll,
        )
        return value, d_value, gradients + d_contexts

    def _initialize(self, y, context):
        stacked = self._stack.stacked

        def body(slices, assigned, value):
            out = self._step._initialize(value, context)
            after = [assigned.get(p, slice_) for p, slice_ in enumerate(slices)]
            return (self._same_shape(out, value),), after

        # A trace for this call alone: one that is kept would outlast the first training step.
        (out,), values = run_in_graph(
            lambda: self._stack.scan(body, (y,), stacked, unroll=self._unroll)
        )
        for variable, value in zip(stacked, values, strict=True):
            checked = variable.dtype.is_floating and tf.executing_eagerly()
            if checked and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise ValueError(
                    f"{self.name} cannot be initialised: {variable.name} would not be finite. "
                    "Check the data, and the layers between the data and this one."
                )
            variable.assign(value)
        return out

    def layers(self, path):
        of_step = self._step.layers(path)
        return [(_indexed(p, i), layer) for i in range(self.count) for p, layer in of_step]

    def visit_layers(self, y, context, measure, found):
        for i in range(self.count):
            try:
                y, of_step = self._visit_step(tf.constant(i), y, context, measure)
            except tf.errors.InvalidArgumentError:  # once more, layer by layer, to find which
                with self._stack.assigned(i):
                    y, of_step = self._step.visit_layers(y, context, measure, found), []
            found += of_step
        return y

    def _visit_step(self, i, y, context, measure):
        if not tf.executing_eagerly():
            return self._visited_step(i, y, context, measure)
        # Eager reads would see the template's own variables.
        arguments = (i, y, context, measure, current().key)
        return self._traced_visit.get_concrete_function(*arguments)(*arguments)

    def _visited_step(self, i, y, context, measure, _=None):
        found: list = []
        with self._stack.at([tf.convert_to_tensor(v)[i] for v in self._stack.stacked]):
            return self._step.visit_layers(y, context, measure, found), found

    def _is_increasing(self, **kwargs):
        def of_all():
            increasing = tf.constant(True)
            for slices in self._stack.slices():
                with self._stack.at(slices):
                    more = private.is_increasing(self._step, **kwargs)
                increasing = tf.equal(increasing, more)
            return increasing

        return run_in_graph(of_all)  # eager reads would see the template's own variables

    def _same_shape(self, out: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
        if not out.shape.is_compatible_with(value.shape):
            raise ValueError(
                f"A repeated step must keep the shape of its event: it maps {value.shape} to "
                f"{out.shape}."
            )
        return like(out, value)

    def _describe(self):
        return f"{self.count} x {self._step!r}"


def _indexed(path: str, i: int) -> str:
    """The path of a layer of step `i`: ends in `[i]`, and in nested repeats in `[i][j]`."""
    path, bracket, inner = path.partition("[")
    return f"{path}[{i}]{bracket}{inner}"
