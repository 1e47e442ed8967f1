"""Inverses that are found by search, with exact gradients of their own."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfp_flows.core.reversible import differentiable_once

Vjp = Callable[[tf.Tensor], tf.Tensor]

_ONCE = (
    "What a bijector finds by search has no second derivatives. Take them in its other direction, "
    "which needs no search (fb.Invert exchanges the two)."
)


def implicit_inverse(
    evaluate: Callable[[tf.Tensor], tf.Tensor],
    value: tf.Tensor,
    solve: Callable[[tf.Tensor], tf.Tensor],
    solve_transposed: Callable[[Vjp, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """The root `x` of `evaluate(x) = value`, with the gradient of the implicit function theorem.

    With `J` the Jacobian of `evaluate` at `x`, and `u` the solution of `J^T u = dx`, the gradient
    is `u` for `value`, and `-u^T d evaluate` for all else that `evaluate` reads (variables and
    context). Nothing of the search is kept in memory. Second derivatives are an error.

    Args:
      evaluate: `x -> value`, differentiable.
      value: what it shall give.
      solve: `value -> x`, by any means; no gradient passes through it.
      solve_transposed: given `vjp: v -> J^T v` and `d`, returns `u` with `J^T u = d`.
    """
    root = tf.stop_gradient(solve(tf.stop_gradient(value)))
    # Recorded here and not when the gradient is wanted, for by then variables may read otherwise:
    # a `Repeat` gives them the values of one step for the time of the step alone.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(root)
        recorded = evaluate(root)

    @tf.custom_gradient
    def attach(value, evaluated):
        def solved(d_root, *_):
            return [solve_transposed(lambda v: tape.gradient(recorded, root, v), d_root)]

        def gradient(d_root):
            (u,) = differentiable_once(solved, _ONCE, d_root, value, evaluated)
            return u, -u

        return tf.identity(root), gradient

    return attach(value, recorded)
