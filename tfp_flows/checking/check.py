"""`check_bijector`: runs every check, and reports every fault."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.checking import faults, gradients
from tfp_flows.checking.subject import Subject
from tfp_flows.core import private

tfb = tfp.bijectors

CHECKS = (
    ("shapes", faults.shapes),
    ("dtype", faults.dtype),
    ("round trip", faults.round_trip),
    ("forward log-det", faults.forward_log_det),
    ("inverse log-det", faults.inverse_log_det),
    ("constant Jacobian", faults.constant_jacobian),
    ("event ranks", faults.event_ranks),
    ("batch", faults.batch),
    ("tf.function", faults.traced),
    ("gradients", gradients.gradients),
    ("untracked variables", faults.untracked),
    ("stale values", faults.stale),
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check_bijector` found.

    Attributes:
      name: name of the bijector.
      found: `{check: faults}`, with an empty list for a check that passed.
    """

    name: str
    found: dict[str, list[str]]

    @property
    def faults(self) -> list[str]:
        """All faults, as `check: fault`."""
        return [f"{check}: {fault}" for check, many in self.found.items() for fault in many]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.faults)} fault(s) in {len(self.found)} checks"]
        for check, many in self.found.items():
            lines.append(f"  {'ok  ' if not many else 'FAIL'} {check}")
            lines += [f"         {fault}" for fault in many]
        return "\n".join(lines)


class BijectorFault(AssertionError):
    """A bijector fails a check; `.report` is the whole `Report`."""

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report


def check_bijector(
    bijector: tfb.Bijector, x, context=None, rtol: float | None = None, xla: bool = False
) -> Report:
    """Checks all that TFP's protocol promises of a bijector.

    The checks are: shapes; dtypes; the round trip in both directions, without TFP's cache; both
    log-dets against the autodiff Jacobian; a Jacobian that is declared constant; log-dets for
    higher event ranks; independence of the examples of a batch (with no, one and two batch
    dimensions); agreement of eager mode and `tf.function`; a finite gradient for the input and
    every variable; gradients against finite differences; variables that are read but not tracked;
    and stale values after an update of the variables, on the same tensors and in what the bijector
    itself stores. Variables have their old values afterwards.

    Args:
      bijector: any injective `tfb.Bijector` that keeps the size of its event.
      x: latents, `[batch, *event]`, of the usual size of your data; two examples or more show
        whether they are independent of each other. The Jacobian has `size(event)^2` entries, so
        keep events small.
      context: passed as `context=`, unless None: `[batch, width]`, one for each example.
      rtol: tolerance, relative to the largest value compared (at least 1). None: the square root of
        the machine epsilon, 3.5e-4 in float32 and 1.5e-8 in float64, which rounding meets even
        with condition numbers of some thousands, and mistakes do not. Gradients are compared with
        10 times the tolerance.
      xla: whether to compare with a version compiled by XLA too.

    Returns:
      A `Report`; print it.

    Raises:
      BijectorFault: if there are faults; it has the same report, and its message lists them all.
      ValueError: if `bijector` is not an injective bijector, or `x` does not suit it.

    Example:
      >>> report = check_bijector(tfb.Exp(), tf.constant([0.1, -2.0]))
      >>> report.faults
      []
    """
    if not isinstance(bijector, tfb.Bijector) or not private.is_injective(bijector):
        raise ValueError(f"check_bijector takes an injective tfb.Bijector, got {bijector!r}.")
    x = tf.convert_to_tensor(x)
    min_ndims = bijector.forward_min_event_ndims
    if not x.dtype.is_floating or x.shape.rank < min_ndims or 0 in x.shape:
        raise ValueError(
            f"check_bijector needs floating-point x of shape (n, *event) with {min_ndims} event "
            f"dimension(s) and n of 1 or more, got {x.dtype.name} of shape {x.shape}."
        )
    x = x[tf.newaxis] if x.shape.rank == min_ndims else x
    if context is not None:
        context = tf.convert_to_tensor(context)
    rtol = float(np.sqrt(np.finfo(x.dtype.as_numpy_dtype).eps)) if rtol is None else rtol
    subject = Subject(bijector, x, context, rtol, xla)
    found = {}
    for name, check in CHECKS:
        try:
            found[name] = list(check(subject))
        except Exception as error:  # any error that a bijector raises is a fault
            first_line = str(error).strip().splitlines()[:1]
            found[name] = [f"raised {type(error).__name__}: {' '.join(first_line)}"]
    report = Report(getattr(bijector, "name", type(bijector).__name__), found)
    if report.faults:
        raise BijectorFault(report)
    return report
