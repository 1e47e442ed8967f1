"""The arithmetic of monotone rational-quadratic splines, with a hand-written gradient.

Bins come first and entries last, `[bins, entries]`: rows are whole vectors, so that sums over
bins are additions of rows. The gradient is written out because that of a gather is a scatter, and
that of a cumulative sum is another cumulative sum.

Source: Neural Spline Flows, arXiv 1906.04032.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import tensorflow as tf


class Settings(NamedTuple):
    """The arguments of `RationalQuadraticSpline`."""

    bins: int
    bound: float
    min_bin_size: float
    min_slope: float
    circular: bool

    @property
    def num_params(self) -> int:
        return 3 * self.bins - (0 if self.circular else 1)

    @property
    def least(self) -> float:  # size of a bin that has no share of the rest
        return 2.0 * self.bound * self.min_bin_size

    @property
    def rest(self) -> float:  # what the bins share out
        return 2.0 * self.bound - self.bins * self.least


class _Bin(NamedTuple):
    """The bin that each entry lies in; pairs `[2, entries]` are of widths and of heights."""

    inside: tf.Tensor  # whether the entry lies in the box
    weights: list[tf.Tensor]  # two of [bins, entries], all bins'; over their sums: the shares
    inverse_sums: tf.Tensor  # [2, entries]
    index: tf.Tensor
    shares: tf.Tensor  # the bin's share, a pair
    starts: tf.Tensor  # the sum of the shares before it, a pair
    slope_params: tf.Tensor  # those of its left and right end, [2, entries]
    width: tf.Tensor
    slope: tf.Tensor  # height / width
    left: tf.Tensor  # derivative at the left end
    right: tf.Tensor
    position: tf.Tensor  # of the entry, 0 at the left end and 1 at the right one


Results = tuple[tf.Tensor, tf.Tensor]


def spline(value: tf.Tensor, params: tf.Tensor, settings: Settings, invert: bool) -> Results:
    """Applies a spline to each entry, or its inverse.

    Args:
      value: `[entries]`.
      params: `[num_params, entries]`: the logits of the bins' widths, those of their heights, and
        the slopes between them before a softplus; on a circle the slope at the seam comes first.
      settings: what all splines share.
      invert: whether to apply the inverse.

    Returns:
      The result and the logarithm of its derivative, both `[entries]`.
    """

    @tf.custom_gradient
    def evaluate(value, params):
        results, bin_ = _evaluate(value, params, settings, invert)

        def gradient(*upstream):
            return _gradient(value, params, *upstream, bin_, settings, invert)

        return results, gradient

    return evaluate(value, params)


def _evaluate(
    value: tf.Tensor, params: tf.Tensor, settings: Settings, invert: bool
) -> tuple[Results, _Bin]:
    bin_, start = _locate(value, params, settings, invert)
    t, both = bin_.position, bin_.position * (1.0 - bin_.position)
    below = bin_.slope + (bin_.left + bin_.right - 2.0 * bin_.slope) * both
    above = bin_.slope * t * t + bin_.left * both
    out = start[int(not invert)] + bin_.width * (t if invert else bin_.slope * above / below)
    log_slope = tf.math.log(_numerator(bin_) * tf.square(bin_.slope / below))
    log_slope = tf.where(bin_.inside, -log_slope if invert else log_slope, 0.0)
    return (tf.where(bin_.inside, out, value), log_slope), bin_


def _numerator(bin_: _Bin) -> tf.Tensor:
    """Numerator of the derivative, without the squared slope."""
    t, u = bin_.position, 1.0 - bin_.position
    return bin_.right * t * t + 2.0 * bin_.slope * t * u + bin_.left * u * u


def _locate(
    value: tf.Tensor, params: tf.Tensor, settings: Settings, invert: bool
) -> tuple[_Bin, tf.Tensor]:
    """Finds the bins of `value` `[entries]`, and the pair of corners where they start."""
    bins, bound = settings.bins, settings.bound
    inside = tf.abs(value) <= bound if settings.circular else tf.abs(value) < bound
    value = tf.clip_by_value(value, -bound, bound)  # nothing outside may reach a quotient

    logits = params[:bins], params[bins : 2 * bins]
    weights = [tf.exp(x - tf.reduce_max(x, axis=0)) for x in logits]
    sums = [list(itertools.accumulate(tf.unstack(w, num=bins))) for w in weights]
    zero = tf.zeros_like(value)
    before = [tf.stack([zero, *s[:-1]]) for s in sums]
    total = [s[-1] for s in sums]
    own = int(invert)  # the axis on which the entry is given

    # A knot lies at least * k + rest * before[k] / total from the border.
    scale = total[own] / settings.rest
    knots = tf.range(1, bins, dtype=tf.int32)[:, None]
    reached = (value + bound) * scale - tf.cast(knots, value.dtype) * (settings.least * scale)
    passed = before[own][1:] <= reached
    index = tf.reduce_sum(tf.cast(passed, tf.int32), axis=0)

    # One row after the other: a plain gather is faster than one with batch dimensions.
    entries = tf.size(value)
    flat_index = index * entries + tf.range(entries)
    inverse_sums = 1.0 / tf.stack(total)
    shares = tf.stack([tf.gather(tf.reshape(w, [-1]), flat_index) for w in weights]) * inverse_sums
    starts = tf.stack([tf.gather(tf.reshape(b, [-1]), flat_index) for b in before]) * inverse_sums
    # The slope is 1 where its parameter is 0, as at both borders.
    slopes = params[2 * bins :]
    borders = [zero[None], slopes, zero[None]]
    if settings.circular:
        borders = [slopes, slopes[:1]]
    slopes = tf.reshape(tf.concat(borders, axis=0), [-1])
    slope_params = tf.gather(slopes, tf.stack([flat_index, flat_index + entries]))
    slope_params = tf.minimum(slope_params, _steepest(value.dtype))

    start = settings.least * tf.cast(index, value.dtype) - bound + settings.rest * starts
    width, height = tf.unstack(settings.least + settings.rest * shares)
    left, right = tf.unstack(
        tf.math.softplus(slope_params + _offset(settings)) + settings.min_slope
    )
    slope = height / width
    if invert:
        rise = tf.clip_by_value((value - start[1]) / height, 0.0, 1.0)
        position = _solve(rise, slope, left, right)
    else:
        position = (value - start[0]) / width
    position = tf.clip_by_value(position, 0.0, 1.0)
    bin_ = _Bin(
        inside,
        weights,
        inverse_sums,
        index,
        shares,
        starts,
        slope_params,
        width,
        slope,
        left,
        right,
        position,
    )
    return bin_, start


def _steepest(dtype: tf.DType) -> float:
    """Parameters of slopes above this count as this: their squares must stay finite."""
    return dtype.max**0.25


def _offset(settings: Settings) -> float:
    return math.log(math.expm1(1.0 - settings.min_slope))


def _solve(rise: tf.Tensor, slope: tf.Tensor, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Where in its bin the spline reaches `rise`: the root in [0, 1], without cancellation."""
    change = rise * (left + right - 2.0 * slope)
    a, b, c = slope - left + change, left - change, -slope * rise
    root = tf.sqrt(tf.maximum(b * b - 4.0 * a * c, 0.0))
    upper = tf.where(b < 0.0, root - b, -2.0 * c)
    return upper / tf.where(b < 0.0, 2.0 * a, b + root)  # a > 0 where b < 0


def _gradient(value, params, d_out, d_log_slope, bin_: _Bin, settings: Settings, invert: bool):
    """`_vjp`, whose own gradient starts again from `value` and `params`.

    Copies are made where a tensor must belong to the current graph: in a loop, the gradient and its
    gradient have graphs of their own, and tapes do not see what is captured from the others.
    """

    @tf.custom_gradient
    def first(*arguments):
        def second(*upstream):
            here = [tf.identity(a) for a in arguments]
            with tf.GradientTape() as tape:
                tape.watch(here)
                value, params, d_out, d_log_slope = here
                again, _ = _locate(value, params, settings, invert)
                results = _vjp(d_out, d_log_slope, again, settings, invert)
            return tape.gradient(results, here, output_gradients=upstream)

        return _vjp(*arguments[2:], bin_, settings, invert), second

    return first(tf.identity(value), tf.identity(params), d_out, d_log_slope)


def _vjp(
    d_out: tf.Tensor, d_log_slope: tf.Tensor, bin_: _Bin, settings: Settings, invert: bool
) -> Results:
    """Gradients with respect to the value and the parameters.

    With the spline `f` and `l = log f'`, it is `a df + b dl` for an evaluation. For an inverse
    `x` at `y = f(x)`, the implicit function theorem gives `a = -(d_out + b dl/dx) / f'`.
    """
    t, s, d0, d1, width = bin_.position, bin_.slope, bin_.left, bin_.right, bin_.width
    u, both, odd = 1.0 - t, t * (1.0 - t), 1.0 - 2.0 * t
    left, right = d0 - s, d1 - s  # no cancellation further on where the bin is straight
    change = left + right
    per_width, per_below, per_numerator = (
        1.0 / width,
        1.0 / (s + change * both),
        1.0 / _numerator(bin_),
    )
    above = s * t * t + d0 * both
    a = tf.where(bin_.inside, d_out, 0.0)
    b = tf.where(bin_.inside, -d_log_slope if invert else d_log_slope, 0.0)

    slope_here = tf.square(s * per_below) / per_numerator
    l_t = 2.0 * ((right * t - left * u) * per_numerator - change * odd * per_below)
    if invert:
        d_position = -a * width
        d_value = (a + b * l_t * per_width) / slope_here
        a = -d_value
    else:
        d_position = a * slope_here * width + b * l_t
        d_value = d_position * per_width
    small = both * per_below
    f_scale = a * width * s * per_below
    d_slope = f_scale * (t * t - above * (1.0 - 2.0 * both) * per_below) + 2.0 * b * (
        1.0 / s + both * per_numerator - (1.0 - 2.0 * both) * per_below
    )
    rest = above * per_below
    d_left = f_scale * both * (1.0 - rest) + b * (u * u * per_numerator - 2.0 * small)
    d_right = -f_scale * both * rest + b * (t * t * per_numerator - 2.0 * small)

    d_size = tf.stack([-per_width * (d_position * t + d_slope * s), a * rest + d_slope * per_width])
    d_start = tf.stack([-d_position * per_width, a])
    d_ends = tf.stack([d_left, d_right]) * tf.sigmoid(bin_.slope_params + _offset(settings))
    d_ends = tf.where(bin_.slope_params < _steepest(d_ends.dtype), d_ends, 0.0)
    rows = [
        *_vjp_of_logits(d_size, d_start, bin_, settings),
        _vjp_of_slopes(d_ends, bin_, settings),
    ]
    return tf.where(bin_.inside, d_value, d_out), tf.concat(rows, axis=0)


def _vjp_of_logits(
    d_size: tf.Tensor, d_start: tf.Tensor, bin_: _Bin, settings: Settings
) -> list[tf.Tensor]:
    """A bin's start is the sum of the bins before it: no sum over bins is needed to go back."""
    mean = d_start * bin_.starts + d_size * bin_.shares
    scale = settings.rest * bin_.inverse_sums
    bins = tf.range(settings.bins)[:, None]
    is_before, is_here = bins < bin_.index, bins == bin_.index
    cases = [tf.unstack(d * scale) for d in (d_start - mean, d_size - mean, -mean)]
    return [
        weights * tf.where(is_before, before, tf.where(is_here, here, after))
        for weights, before, here, after in zip(bin_.weights, *cases, strict=True)
    ]


def _vjp_of_slopes(d_ends: tf.Tensor, bin_: _Bin, settings: Settings) -> tf.Tensor:
    d_left, d_right = tf.unstack(d_ends)
    knots = tf.range(int(not settings.circular), settings.bins)[:, None]
    following = bin_.index + 1
    if settings.circular:  # the last knot is the first
        following = tf.where(following == settings.bins, 0, following)
    right = tf.where(knots == following, d_right, 0.0)
    return tf.where(knots == bin_.index, d_left, right)
