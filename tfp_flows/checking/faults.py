"""The checks, one function each, which yields a sentence for every fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tfp_flows.checking.subject import Subject, fresh
from tfp_flows.core.variables import UntrackedVariableError, validate_tracked


def shapes(s: Subject) -> Iterator[str]:
    """Values have the shapes that the shape methods return."""
    b = s.bijector
    x_event = s.x.shape[s.x.shape.rank - s.x_ndims :]
    y_event = s.y.shape[s.y.shape.rank - s.y_ndims :]
    batch = s.x.shape[: s.x.shape.rank - s.x_ndims]
    if s.y.shape[: s.y.shape.rank - s.y_ndims] != batch:
        yield f"forward turns batch shape {batch} into {s.y.shape[: s.y.shape.rank - s.y_ndims]}"
    returned = {
        "forward_event_shape": (b.forward_event_shape(x_event), y_event),
        "inverse_event_shape": (b.inverse_event_shape(y_event), x_event),
    }
    for name, (found, expected) in returned.items():
        if not found.is_compatible_with(expected):
            yield f"{name} says {found}, the values have {expected}"
        tensor = getattr(b, f"{name}_tensor")(x_event if name.startswith("forward") else y_event)
        if tuple(np.asarray(tensor)) != tuple(expected):
            yield f"{name}_tensor says {np.asarray(tensor)}, the values have {expected}"
    for name in ("forward_log_det_jacobian", "inverse_log_det_jacobian"):
        shape = s.methods[name](fresh(s.arguments()[name])).shape
        constant = b.is_constant_jacobian and shape.rank < batch.rank
        if shape != batch and not constant:
            yield f"{name} has shape {shape} for batch shape {batch}"


def dtype(s: Subject) -> Iterator[str]:
    """Results have the dtype of the argument."""
    for name, argument in s.arguments().items():
        found = s.methods[name](fresh(argument)).dtype
        if found != s.x.dtype:
            yield f"{name} turns {s.x.dtype.name} into {found.name}"


def round_trip(s: Subject) -> Iterator[str]:
    """Each direction inverts the other, without any cache."""
    x = s.methods["inverse"](fresh(s.y))
    yield from s.differences("inverse(forward(x)) - x", x, s.x)
    y = s.methods["forward"](fresh(x))
    yield from s.differences("forward(inverse(y)) - y", y, s.y)


def forward_log_det(s: Subject) -> Iterator[str]:
    """The forward log-det is that of the Jacobian of `forward`."""
    yield from _log_det(s, "forward")


def inverse_log_det(s: Subject) -> Iterator[str]:
    """The inverse log-det is that of the Jacobian of `inverse`, and minus the forward one."""
    yield from _log_det(s, "inverse")
    ildj = s.methods["inverse_log_det_jacobian"](fresh(s.y))
    fldj = s.methods["forward_log_det_jacobian"](fresh(s.x))
    yield from s.differences("inverse log-det against minus the forward one", ildj, -fldj)


def _log_det(s: Subject, direction: str) -> Iterator[str]:
    name = f"{direction}_log_det_jacobian"
    expected = s.jacobian_log_det(direction)
    if expected is None:
        yield "the two sides have events of different size, so there is no Jacobian determinant"
        return
    found = s.methods[name](fresh(s.arguments()[name]))
    yield from s.differences("against the autodiff Jacobian", found, expected)


def constant_jacobian(s: Subject) -> Iterator[str]:
    """A Jacobian determinant that is declared constant is the same at other latents."""
    expected = s.jacobian_log_det("forward") if s.bijector.is_constant_jacobian else None
    if expected is None:
        return
    elsewhere = dataclasses.replace(s, x=0.9 * s.x).jacobian_log_det("forward")
    if np.isfinite(elsewhere).all():
        yield from s.differences("is_constant_jacobian, but log|det J(0.9 x)|", elsewhere, expected)


def event_ranks(s: Subject) -> Iterator[str]:
    """With one more event dimension, the log-det is summed over it."""
    for direction, ndims in (("forward", s.x_ndims), ("inverse", s.y_ndims)):
        name = f"{direction}_log_det_jacobian"
        argument, method = s.arguments()[name], getattr(s.bijector, name)
        batch = argument.shape[: argument.shape.rank - ndims]
        each = method(fresh(argument), event_ndims=ndims, **s.kwargs)
        total = method(fresh(argument), event_ndims=ndims + 1, **s.kwargs)
        expected = tf.reduce_sum(tf.broadcast_to(each, batch), axis=-1)
        yield from s.differences(f"{name} with event_ndims={ndims + 1}", total, expected)


def batch(s: Subject) -> Iterator[str]:
    """An example's result does not depend on the batch around it."""
    contexts = (None, None) if s.context is None else (s.context[0], s.context[tf.newaxis])
    one, more = (s.with_context(c).methods for c in contexts)
    for name, argument in s.arguments().items():
        together = s.methods[name](fresh(argument))
        rank = argument.shape.rank - (s.x_ndims if name.startswith("forward") else s.y_ndims)
        shape = argument.shape[:rank] + together.shape[min(rank, together.shape.rank) :]
        together = tf.broadcast_to(together, shape)
        alone = one[name](fresh(argument[0]))
        yield from s.differences(f"{name}, one example without batch", alone, together[0])
        twice = more[name](fresh(argument[tf.newaxis]))
        yield from s.differences(f"{name}, two batch dimensions", twice, together[tf.newaxis])


def traced(s: Subject) -> Iterator[str]:
    """`tf.function` (and XLA, if requested) agrees with eager mode, with an unknown batch size."""
    for direction in ("forward", "inverse"):
        names = (direction, f"{direction}_log_det_jacobian")
        value, log_det = (s.methods[name] for name in names)
        argument = fresh(s.arguments()[direction])
        expected = value(argument), log_det(argument)
        spec = tf.TensorSpec([None, *argument.shape[1:]], argument.dtype)
        for jit in (False, True) if s.xla else (False,):
            both = tf.function(_pair(value, log_det), input_signature=[spec], jit_compile=jit)
            for name, found, right in zip(names, both(argument), expected, strict=True):
                yield from s.differences(
                    f"{name} under {'XLA' if jit else 'tf.function'}", found, right
                )


def _pair(value: Callable, log_det: Callable) -> Callable:
    return lambda tensor: (value(tensor), log_det(tensor))


def untracked(s: Subject) -> Iterator[str]:
    """All trainable variables that are read are among `trainable_variables`."""
    try:
        with validate_tracked(s.bijector):
            for name, argument in s.arguments().items():
                s.methods[name](fresh(argument))
    except UntrackedVariableError as error:
        yield str(error)


def stale(s: Subject) -> Iterator[str]:
    """After an update of the variables, results are those of the new values."""
    variables = [v for v in s.bijector.trainable_variables if v.dtype.is_floating]
    before = [v.numpy() for v in variables]
    random = np.random.RandomState(0)
    held = [s.methods[name](argument) for name, argument in s.arguments().items()]
    try:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value + 0.05 * random.uniform(0.5, 1.0, value.shape))
        for name, argument in s.arguments().items():
            expected = s.methods[name](fresh(argument))
            yield from s.differences(
                f"{name} on the same tensor after an update", s.methods[name](argument), expected
            )
        # Shows what a bijector has computed from the old values and stored.
        updated = dataclasses.replace(s)
        for check in (round_trip, forward_log_det, inverse_log_det) if variables else ():
            for fault in check(updated):
                yield f"{check.__name__.replace('_', ' ')} after an update: {fault}"
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        del held  # until here, as in a user's code: it keeps TFP's cache alive
