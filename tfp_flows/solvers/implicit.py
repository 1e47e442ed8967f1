"""Implicit differentiation: exact gradients of inverses that are found by a search."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfp_flows.core.reversible import differentiable_once

Vjp = Callable[[tf.Tensor], tf.Tensor]

_ONCE = (
    "An inverse that is found by a search has no second derivatives. Take them in the other "
    "direction, which needs no search (fb.Invert exchanges the two)."
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
    context). Nothing of the search is kept in memory.

    Args:
      evaluate: `x -> value`, differentiable.
      value: the right-hand side.
      solve: `value -> x`, by any means; no gradient passes through it.
      solve_transposed: from `vjp: v -> J^T v` and `d` to `u` with `J^T u = d`.

    Raises:
      tf.errors.InvalidArgumentError: if a second derivative is taken.
    """
    root = tf.stop_gradient(solve(tf.stop_gradient(value)))
    # Recorded now, not when the gradient is computed: by then variables may have other values, as
    # within a `Repeat`, which substitutes those of one step during that step only.
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
