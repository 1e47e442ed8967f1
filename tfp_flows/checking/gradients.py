"""Gradients of values and log-dets: they exist, are finite, and agree with finite differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.checking.subject import Subject, fresh

_TOLERANCE = 10.0  # of a gradient, times that of a value
_STEPS = (1.0, 1 / 16, 1 / 64, 16.0)  # times the usual step: some meet a kink, others rounding


def gradients(s: Subject) -> Iterator[str]:
    """The input and every variable get a finite gradient that agrees with finite differences."""
    unreached = {id(v): v.name for v in s.bijector.trainable_variables}
    for direction in ("forward", "inverse"):
        check = GradientCheck(s, direction)
        found = list(zip(check.sources, check.names, check.gradients, strict=True))
        for source, _, gradient in found:
            if gradient is not None:  # one direction may not need all variables
                unreached.pop(id(source), None)
        if check.gradients[0] is None:
            yield f"{direction}: no gradient for {check.names[0]}"
        infinite = [n for _, n, g in found if g is not None and not np.isfinite(g).all()]
        for name in infinite:
            yield f"{direction}: the gradient for {name} is not finite"
        if not infinite:
            yield from (f"{direction}: {fault}" for fault in check.wrong_gradients())
    for name in unreached.values():
        yield f"no gradient for {name}"


class GradientCheck:
    """Gradients of a random linear function of one direction's value and log-det.

    The derivative along a random direction is compared with finite differences. The linear function
    is summed in float64, so that the only rounding is the bijector's own.

    Args:
      s: the bijector under test.
      direction: `"forward"` or `"inverse"`.

    Attributes:
      sources, names, gradients: what gradients are taken with respect to: the input, the context,
        and the trainable variables.
    """

    def __init__(self, s: Subject, direction: str):
        self._s, self._direction = s, direction
        self._random = np.random.RandomState(0)
        self._weights: list[np.ndarray] = []
        self._variables = [v for v in s.bijector.trainable_variables if v.dtype.is_floating]
        inputs = [fresh(s.arguments()[direction])]
        self.names = ["the input"]
        if s.context is not None and s.context.dtype.is_floating:
            inputs.append(fresh(s.context))
            self.names.append("the context")
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = self._total(inputs)
        self.sources = [*inputs, *self._variables]
        self.names += [v.name for v in self._variables]
        found = tape.gradient(total, self.sources)
        self.gradients = [None if g is None else tf.convert_to_tensor(g).numpy() for g in found]
        self._start = [source.numpy() for source in self.sources]
        self._moves = [self._random.choice([-1.0, 1.0], v.shape) for v in self._start]

    def _total(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        argument, context = [*inputs, self._s.context][:2]
        methods = self._s.with_context(context).methods
        names = (self._direction, f"{self._direction}_log_det_jacobian")
        results = [tf.cast(methods[name](argument), tf.float64) for name in names]
        if not self._weights:
            self._weights = [self._random.choice([-1.0, 1.0], r.shape) for r in results]
            self._scale = max(1.0, *(float(tf.norm(r)) for r in results))
        return tf.add_n([tf.reduce_sum(r * w) for r, w in zip(results, self._weights, strict=True)])

    def wrong_gradients(self) -> Iterator[str]:
        """Compares all gradients together, and one by one if that fails."""
        everything = range(len(self.names))
        try:
            if self._agrees(everything):
                return
            wrong = [i for i in everything if not self._agrees([i])]
            for i in wrong:  # none, if only all of them together met a kink
                slope, differences = self._slope([i]), self._differences([i], _STEPS[0])
                yield (
                    f"the gradient for {self.names[i]} gives a slope of {slope:.6g} along a random "
                    f"direction, differences of values give {differences:.6g}"
                )
        finally:
            self._assign(self._start)

    def _agrees(self, moved: Sequence[int]) -> bool:
        slope = self._slope(moved)
        close = _TOLERANCE * self._s.rtol * max(self._scale, abs(slope))
        return any(abs(self._differences(moved, step) - slope) <= close for step in _STEPS)

    def _slope(self, moved: Sequence[int]) -> float:
        """The derivative along the direction by the gradients, where None counts as zero."""
        known = [i for i in moved if self.gradients[i] is not None]
        return sum(float(np.sum(self.gradients[i] * self._moves[i])) for i in known)

    def _differences(self, moved: Sequence[int], step: float) -> float:
        """The derivative along the direction by a central difference."""
        # Values are exact to about rtol^2, so that rounding and curvature cost the same.
        step = step * self._s.rtol ** (2 / 3)
        return (self._at(moved, step) - self._at(moved, -step)) / (2 * step)

    def _at(self, moved: Sequence[int], step: float) -> float:
        point = [
            tf.constant(value + step * move if i in moved else value, value.dtype)
            for i, (value, move) in enumerate(zip(self._start, self._moves, strict=True))
        ]
        self._assign(point)
        return float(self._total(point[: len(point) - len(self._variables)]))

    def _assign(self, point: Sequence[Any]) -> None:
        """Assigns the variables, which are the last of the sources."""
        for source, value in zip(self.sources, point, strict=True):
            if isinstance(source, tf.Variable):
                source.assign(value)
