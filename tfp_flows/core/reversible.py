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
    """Computes `function(*sources)`, whose own gradient is an error.

    For the parts of a gradient. It also keeps TensorFlow from preparing gradients of gradients, as
    it does wherever an eager tape is persistent, which takes many seconds for a loop.

    Args:
      function: the computation.
      message: the message of the error.
      *sources: tensors that it depends on.

    Raises:
      tf.errors.InvalidArgumentError: when a second gradient that is not 0 is computed. (XLA has no
        errors: the gradient is NaN there.)
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
    "Reversible backpropagation gives first derivatives only. For second ones make the flow with "
    "reversible=False, which has the same weights."
)


def vjp_of(
    tape: tf.GradientTape,
    results: Sequence[tf.Tensor],
    d_results: Sequence[tf.Tensor | None],
    sources: Sequence[tf.Tensor],
) -> list[tf.Tensor | None]:
    """`tape.gradient` with None for gradients that are 0, but never for the first source."""
    pairs = zip(results, d_results, strict=True)
    results, d_results = zip(
        *[(r, _summed_like(d, r)) for r, d in pairs if d is not None], strict=True
    )
    first, *others = tape.gradient(results, sources, output_gradients=d_results)
    return [tf.zeros_like(sources[0]) if first is None else first, *others]


def _summed_like(gradient: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """A constant log-det is one number for the whole batch, whose gradient is the sum."""
    if result.shape.rank == 0 and gradient.shape.rank != 0:
        return tf.reduce_sum(gradient)
    return gradient


def add_gradients(
    totals: Sequence[tf.Tensor | None], more: Sequence[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """Adds two lists of gradients, entry by entry; None is 0."""
    return [
        a if b is None else b if a is None else a + b for a, b in zip(totals, more, strict=True)
    ]


def with_recomputed_gradient(
    evaluate: Evaluate,
    recompute_inputs: Callable,
    variables: Sequence[tf.Variable],
    value: tf.Tensor,
    context: tf.Tensor | None,
    no_second: str = NO_SECOND,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes `evaluate(value, context)`, of which its gradient keeps only the output.

    Gradients of what is recomputed would miss that it depends on the input, so a second gradient is
    an error.

    Args:
      evaluate: `(value, context) -> (out, log_det)`; `log_det` has the shape of the batch.
      recompute_inputs: `(out, d_out, d_log_det, sources, context) -> (value, d_value, d_sources)`.
      variables: all that `evaluate` reads. Those that are not trained, such as the states of random
        generators, read the same in both passes.
      value: its argument.
      context: its other argument, or None.
      no_second: the message of that error.

    Raises:
      ValueError: if `evaluate` assigns a variable that is trained.
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
        updated = [trained[i].name for i in assigned if i < len(trained)]
        if updated:
            raise ValueError(
                f"A network updates {', '.join(updated)}, which is trained, when it is called, as "
                "SpectralNormalization of Keras does. Reversible backpropagation calls it again "
                "for the gradient, and needs the same weights then: use reversible=False, or "
                "another network."
            )
        for i, new in assigned.items():
            others[i - len(trained)].assign(new)

        def recomputed(d_out, d_log_det, *_):
            with substituted([*trained, *others], tensors), evaluating(**repeated):
                _, d_value, d_sources = recompute_inputs(out, d_out, d_log_det, sources, context)
            known = zip(sources, d_sources, strict=True)
            return [d_value, *(tf.zeros_like(s) if d is None else d for s, d in known)]

        def gradient(d_out, d_log_det):
            return differentiable_once(recomputed, no_second, d_out, d_log_det, value, *sources)

        return (out, log_det), gradient

    extra = [] if context is None else [context]
    return run(value, *(tf.convert_to_tensor(v) for v in trained), *extra)
