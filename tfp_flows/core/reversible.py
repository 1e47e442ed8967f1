"""Reversible backpropagation: activations are recomputed from the output, not kept.

Source: The Reversible Residual Network, arXiv 1707.04585.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfp_flows.core.evaluation import current, evaluating
from tfp_flows.core.substitution import substituted

Results = list[tf.Tensor]


def differentiable_once(function: Callable[..., Results], message: str, *sources) -> Results:
    """What `function(*sources)` gives, whose own gradient is an error when it is computed.

    For what a gradient is made of. It also spares TensorFlow the gradients of gradients that it
    prepares wherever an eager tape is persistent, which takes many seconds for a loop.

    Args:
      function: the computation.
      message: what the error says.
      sources: tensors that it depends on.

    Raises:
      tf.errors.InvalidArgumentError: from a second gradient that is not 0. (XLA has no errors:
        NaN there.)
    """

    @tf.custom_gradient
    def run(*sources):
        def gradient(*d_results):
            unused = tf.reduce_all([tf.reduce_all(tf.equal(d, 0.0)) for d in d_results])
            with tf.control_dependencies([tf.debugging.Assert(unused, [message])]):
                zero = tf.where(unused, 0.0, np.nan)
            return [tf.fill(tf.shape(s), tf.cast(zero, s.dtype)) for s in sources]

        return function(*sources), gradient

    # Copies, which belong to this graph: a second gradient in a loop finds no others.
    return run(*map(tf.identity, sources))


Evaluate = Callable[[tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor]]

NO_SECOND = (
    "Training by inversion gives first derivatives alone. For second ones make the flow with "
    "reversible=False, which has the same weights."
)


def recompute_input(
    there: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    back: Callable[[tf.Tensor], tf.Tensor],
    out: tf.Tensor,
    d_out: tf.Tensor,
    d_log_det: tf.Tensor,
    sources: Sequence[tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | None]]:
    """The input of an evaluation from its output, and the gradients that pass through it.

    Args:
      there: input -> `(out, log_det)`, the evaluation.
      back: its inverse, the value alone.
      out: what `there` gave.
      d_out, d_log_det: gradients with respect to its results.
      sources: tensors that it reads, whose gradients are wanted.

    Returns:
      The input, the gradient with respect to it, and those of the sources (None: unused).
    """
    value = tf.stop_gradient(back(out))
    with tf.GradientTape() as tape:
        tape.watch([value, *sources])
        results = there(value)
    d_value, *d_sources = vjp_of(tape, results, [d_out, d_log_det], [value, *sources])
    return value, d_value, d_sources


def vjp_of(tape: tf.GradientTape, results, d_results, sources) -> list[tf.Tensor | None]:
    """`tape.gradient`, where None is no gradient, and the first source's is never None."""
    known = [
        (r, _summed_like(d, r)) for r, d in zip(results, d_results, strict=True) if d is not None
    ]
    results, d_results = zip(*known, strict=True)
    first, *others = tape.gradient(results, sources, output_gradients=d_results)
    return [tf.zeros_like(sources[0]) if first is None else first, *others]


def _summed_like(gradient: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """A constant log-det is one number for the whole batch; its gradient is the sum."""
    if result.shape.rank == 0 and gradient.shape.rank != 0:
        return tf.reduce_sum(gradient)
    return gradient


def add_gradients(totals: list, more: Sequence[tf.Tensor | None]) -> list:
    """Adds gradients one by one, where None is zero."""
    return [
        a if b is None else b if a is None else a + b for a, b in zip(totals, more, strict=True)
    ]


def with_recomputed_gradient(
    evaluate: Evaluate,
    recompute_inputs: Callable,
    variables: Sequence[tf.Variable],
    value: tf.Tensor,
    context: tf.Tensor | None,
    no_second: str,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`evaluate(value, context)`, whose gradient keeps the output alone.

    What is rebuilt does not know that it depends on the input, so a second gradient would be wrong:
    it is an error.

    Args:
      evaluate: `(value, context) -> (out, log_det)`; `log_det` has the shape of the batch.
      recompute_inputs: `(out, d_out, d_log_det, sources, context) -> (value, d_value, d_sources)`.
      variables: all that it reads. Those that are not trained, as the states of random
        generators, read the same in both passes.
      value: argument.
      context: argument, or None.
      no_second: what that error says.

    Raises:
      ValueError: it assigns a variable that is trained.
    """
    trained = [v for v in variables if v.trainable and v.dtype.is_floating]
    others = [v for v in variables if not (v.trainable and v.dtype.is_floating)]
    fixed = [tf.convert_to_tensor(v) for v in others]

    repeated = current().repeated()  # as of now, not when the gradient is wanted

    @tf.custom_gradient
    def run(value, *sources):
        context = sources[len(trained)] if len(sources) > len(trained) else None
        tensors = [*sources[: len(trained)], *fixed]
        with substituted([*trained, *others], tensors) as assigned:
            out, log_det = evaluate(value, context)
        updated = [trained[place].name for place in assigned if place < len(trained)]
        if updated:
            raise ValueError(
                f"A network updates {', '.join(updated)}, which is trained, when it is called, as "
                "SpectralNormalization of Keras does. Training by inversion calls it again for "
                "the gradient, and needs the same weights then: use reversible=False, or another "
                "network."
            )
        for place, new in assigned.items():
            others[place - len(trained)].assign(new)

        def rebuilt(d_out, d_log_det, *_):
            with substituted([*trained, *others], tensors), evaluating(**repeated):
                _, d_value, d_sources = recompute_inputs(out, d_out, d_log_det, sources, context)
            known = zip(sources, d_sources, strict=True)
            return [d_value, *(tf.zeros_like(s) if d is None else d for s, d in known)]

        def gradient(d_out, d_log_det):
            return differentiable_once(rebuilt, no_second, d_out, d_log_det, value, *sources)

        return (out, log_det), gradient

    extra = [] if context is None else [context]
    return run(value, *(tf.convert_to_tensor(v) for v in trained), *extra)
