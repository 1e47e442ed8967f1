"""Many equal steps as one loop: start-up and graph do not grow with depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.bijectors.chain import Chain
from tfp_flows.core import FlowBijector, private
from tfp_flows.core.bijector import InitState
from tfp_flows.core.evaluation import (
    add_penalty,
    at_index,
    current,
    summing_penalties,
)
from tfp_flows.core.loop import Loop
from tfp_flows.core.reversible import NO_SECOND, add_gradients, with_recomputed_gradient
from tfp_flows.core.shapes import like
from tfp_flows.core.stack import Stack, validate_repeatable
from tfp_flows.core.tracing import InGraph

tfb = tfp.bijectors


class Repeat(FlowBijector):
    r"""`count` equal steps with parameters of their own, run as one loop.

    $$ f = f_{\theta_1} \circ \dots \circ f_{\theta_n}, \qquad
       \log|\det J_f| = \textstyle\sum_i \log|\det J_{f_{\theta_i}}| $$

    It computes what `Chain([step() for _ in range(count)])` does, but the graph holds a single
    step, and a parameter of all steps is one variable `[count, ...]`. So tracing, compiling and
    optimizer updates cost the same for 4 steps as for 40, and with `reversible=True` memory does
    too. Networks of any kind will do, with dropout too, as long as they are built and do not
    update weights when they are called (as batch normalisation does).

    Args:
      bijector: a bijector that keeps the shape of its event. Every step gets its own draw of what
        starts at random: bijectors of this package, and the weights of Keras layers that hold
        their initialisers; all else starts at the values given. Or a function that makes a step,
        which is then called `count` times: slower, and right for parts of any kind.
      count: how many steps.
      reversible: train by inversion: the gradient keeps the output alone, and rebuilds each
        step's input from its output.
      unroll: put every step into the graph. For small steps, where the bookkeeping of a loop
        would show; start-up then grows with `count`, optimizer updates still do not.
      stacked: variables to use in place of new ones, by their path in a step.
      name: name of the bijector.

    Raises:
      ValueError: the steps differ in structure, or change the shape of the event; or
        `reversible` with a random layer of tf_keras, which cannot repeat its draws.

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
            self._stack = Stack(bijector if is_template else bijector(), stacked, f"{name}_steps")
        elif is_template:
            self._stack = Stack.like(bijector, count, f"{name}_steps")
        else:
            self._stack = Stack.of(bijector, count, f"{name}_steps")
        template = self._stack.template
        template = template if isinstance(template, FlowBijector) else Chain([template])
        self._step = self._no_dependency(template)
        if template.forward_min_event_ndims != template.inverse_min_event_ndims:
            raise ValueError(f"A repeated step must keep the rank of its event, got {template!r}.")
        self._count = int(count)
        self._reversible = bool(reversible)
        self._loop = self._no_dependency(Loop(self._count, bool(unroll)))
        self._evaluate = self._no_dependency(InGraph(self._run))
        self._traced_visit = self._no_dependency(tf.function(self._visited_step, autograph=False))
        super().__init__(
            forward_min_event_ndims=template.forward_min_event_ndims,
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
        "_loop",
        "_evaluate",
        "_traced_visit",
    }

    @property
    def bijector(self) -> tfb.Bijector:
        """One step as a template: its shapes count, its values do not."""
        return self._stack.template

    @property
    def count(self) -> int:
        """How many steps there are."""
        return self._count

    def _init_states(self):
        stacked = {id(own): variable for own, variable in self._stack.pairs}
        template = (self._step, *self._step.submodules)
        starts = [s for m in template if isinstance(m, FlowBijector) for s in m._init_states()]
        return [
            InitState(stacked[id(s.flag)], tuple(stacked[id(v)] for v in s.zeros)) for s in starts
        ]

    def _forward_and_log_det(self, x, context):
        return self._evaluate(x, context, self.forward_min_event_ndims, forward=True)

    def _inverse_and_log_det(self, y, context):
        return self._evaluate(y, context, self.forward_min_event_ndims, forward=False)

    def _run(self, value, context, forward: bool):
        if not self._reversible:
            return self._evaluate_steps(value, context, forward)

        def evaluate(value, context):
            return self._evaluate_steps(value, context, forward)

        def recompute_inputs(out, d_out, d_log_det, sources, context):
            return self._recompute_steps(out, d_out, d_log_det, context, forward)

        variables = self._stack.stacked
        return with_recomputed_gradient(
            evaluate, recompute_inputs, variables, value, context, NO_SECOND
        )

    def _evaluate_steps(self, value, context, forward: bool):
        ndims = self.forward_min_event_ndims
        both = self._step.forward_and_log_det if forward else self._step.inverse_and_log_det
        stacked = self._stack.stacked
        arrays = [self._loop.unstacked(s) for s in stacked]
        states = [p for p, s in enumerate(stacked) if not s.dtype.is_floating]
        moved_on: set[int] = set()

        def body(n, value, log_det, penalty, after):
            i = self._count - 1 - n if forward else n
            slices = [a.read(i) for a in arrays]
            with self._stack.at(slices) as assigned, at_index(i), summing_penalties(penalty) as end:
                out, more = both(value, ndims, context)
            updated = [stacked[p].name for p in assigned if stacked[p].dtype.is_floating]
            if updated:
                raise ValueError(
                    f"A step of {self.name} updates {', '.join(updated)} when it is called, as "
                    "batch normalisation does; Repeat cannot hold such a step. Use Chain, or "
                    "another normalisation."
                )
            moved_on.update(assigned)
            after = [
                a.write(i, assigned.get(p, slices[p])) for a, p in zip(after, states, strict=True)
            ]
            return n + 1, self._kept_shape(out, value), like(log_det + more, log_det), end(), after

        log_det = tf.zeros(tf.shape(value)[: value.shape.rank - ndims], value.dtype)
        log_det = tf.ensure_shape(log_det, value.shape[: value.shape.rank - ndims])
        penalty = tf.zeros_like(log_det) if current().collects_penalties else ()
        after = [self._loop.array(stacked[p]) for p in states]
        out, log_det, penalty, after = self._loop.run(body, value, log_det, penalty, after)
        if current().collects_penalties:
            add_penalty(penalty)
        for place, array in zip(states, after, strict=True):
            if place in moved_on:  # such as the state of a random generator
                stacked[place].assign(array.stack())
        return out, log_det

    def _recompute_steps(self, out, d_out, d_log_det, context, forward: bool):
        """The loop backwards: inputs from outputs, and the gradients on the way."""
        ndims = self.forward_min_event_ndims
        stacked = self._stack.stacked
        arrays = [self._loop.unstacked(s) for s in stacked]
        trained = [p for p, s in enumerate(stacked) if s.trainable and s.dtype.is_floating]
        extra = [] if context is None else [context]
        gradients = [self._loop.array(stacked[p]) for p in trained]

        def body(n, value, d_value, d_extra, gradients):
            i = n if forward else self._count - 1 - n
            slices = [a.read(i) for a in arrays]
            sources = [slices[p] for p in trained] + extra
            with tf.control_dependencies([d_value]):  # not before its gradient is here
                value = tf.identity(value)
            with self._stack.at(slices), at_index(i):
                before, d_before, d_sources = self._step._recompute(
                    value, d_value, d_log_det, ndims, sources, context, forward
                )
            found = [
                tf.zeros_like(s) if d is None else d
                for s, d in zip(sources, d_sources, strict=True)
            ]
            gradients = [g.write(i, d) for g, d in zip(gradients, found, strict=False)]
            d_extra = add_gradients(d_extra, found[len(trained) :])
            return n + 1, like(before, value), like(d_before, value), d_extra, gradients

        d_extra = [tf.zeros_like(e) for e in extra]
        value, d_value, d_extra, gradients = self._loop.run(body, out, d_out, d_extra, gradients)
        return value, d_value, [g.stack() for g in gradients] + d_extra

    def _initialize(self, y, context):
        stacked = self._stack.stacked

        @tf.function(autograph=False)  # in eager mode it would outlast the first training step
        def walk(y):
            arrays = [self._loop.unstacked(s) for s in stacked]

            def body(n, value, updated):
                slices = [a.read(n) for a in arrays]
                with self._stack.at(slices) as assigned:
                    out = self._step._initialize(value, context)
                updated = [u.write(n, assigned.get(p, slices[p])) for p, u in enumerate(updated)]
                return n + 1, self._kept_shape(out, value), updated

            out, updated = self._loop.run(body, y, [self._loop.array(s) for s in stacked])
            return out, [u.stack() for u in updated]

        # Called by its concrete function, or TensorFlow would take many flows for one retraced.
        out, values = walk.get_concrete_function(y)(y)
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
        return [(_indexed(p, i), layer) for i in range(self._count) for p, layer in of_step]

    def visit_layers(self, y, context, measure, found):
        for i in range(self._count):
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
        @tf.function(autograph=False)  # eager reads would see the template's own variables
        def of_all():
            increasing = tf.constant(True)
            for slices in self._stack.slices() if self._stack.stacked else [[]] * self._count:
                with self._stack.at(slices):
                    more = private.is_increasing(self._step, **kwargs)
                increasing = tf.equal(increasing, more)
            return increasing

        return of_all.get_concrete_function()()  # TensorFlow would take many flows for one

    def _kept_shape(self, out, value):
        if not out.shape.is_compatible_with(value.shape):
            raise ValueError(
                f"A repeated step must keep the shape of its event: it maps {value.shape} to "
                f"{out.shape}."
            )
        return like(out, value)

    def _describe(self):
        return f"{self._count} x {self._step!r}"


def _indexed(path: str, i: int) -> str:
    """The path of a layer of step `i`: ends in `[i]`, and in nested repeats in `[i][j]`."""
    path, bracket, inner = path.partition("[")
    return f"{path}[{i}]{bracket}{inner}"
