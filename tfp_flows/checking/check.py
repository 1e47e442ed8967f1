"""`check_bijector`: runs every check, and tells of every fault, not of the first alone."""

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
    """What `check_bijector` found: `{check: faults}`, with no faults where all is well."""

    name: str
    found: dict[str, list[str]]

    @property
    def faults(self) -> list[str]:
        """Every fault, as `check: what is wrong`."""
        return [f"{check}: {fault}" for check, many in self.found.items() for fault in many]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.faults)} fault(s) in {len(self.found)} checks"]
        for check, many in self.found.items():
            lines.append(f"  {'ok  ' if not many else 'FAIL'} {check}")
            lines += [f"         {fault}" for fault in many]
        return "\n".join(lines)


class BijectorFault(AssertionError):
    """A bijector breaks the contract; `.report` has the whole story."""

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report


def check_bijector(
    bijector: tfb.Bijector, x, context=None, rtol: float | None = None, xla: bool = False
) -> Report:
    """Holds a bijector against all that TFP's protocol promises.

    Checked are: shapes, dtypes, the round trip both ways with TFP's cache put out of play, both
    log-dets against the autodiff Jacobian, a Jacobian that is declared constant, log-dets for
    higher event ranks, independence of the examples of a batch (none, one, two batch dimensions),
    agreement of eager mode and `tf.function`, a finite gradient for the input and every variable,
    gradients against differences of values, variables that are read but not tracked, and values
    that outlive an update of the variables: on the same tensors, and anything that the bijector
    computed from the old values and kept. Variables are as before afterwards.

    Args:
      bijector: any injective `tfb.Bijector` that keeps the size of its event.
      x: latents to try, `[batch, *event]`, of the usual size of your data; with two examples or
        more it shows whether they are independent of each other. The Jacobian has
        `size(event)^2` entries, so keep events small.
      context: passed as `context=`, unless None: `[batch, width]`, one for each example.
      rtol: tolerance, relative to the largest value compared (at least 1). The square root of
        the machine epsilon if None: 3.5e-4 in float32, 1.5e-8 in float64; rounding passes,
        also where the bijector is ill-conditioned up to some thousands, and mistakes do not.
        Gradients are compared at 10 times as much.
      xla: also compile with XLA, and compare.

    Returns:
      A `Report`; print it.

    Raises:
      BijectorFault: faults were found; it has the same report, and its message lists them all.
      ValueError: `x` does not suit the bijector.

    Example:
      >>> report = check_bijector(tfb.Exp(), tf.constant([0.1, -2.0]))
      >>> report.faults
      []
    """
    if not isinstance(bijector, tfb.Bijector) or not private.is_injective(bijector):
        raise ValueError(f"check_bijector takes an injective tfb.Bijector, got {bijector!r}.")
    x = tf.convert_to_tensor(x)
    least = bijector.forward_min_event_ndims
    if not x.dtype.is_floating or x.shape.rank < least or 0 in x.shape:
        raise ValueError(
            f"check_bijector needs floating-point x of shape (n, *event) with {least} event "
            f"dimension(s) and n of 1 or more, got {x.dtype.name} of shape {x.shape}."
        )
    x = x[tf.newaxis] if x.shape.rank == least else x
    rtol = float(np.sqrt(np.finfo(x.dtype.as_numpy_dtype).eps)) if rtol is None else rtol
    subject = Subject(bijector, x, context, rtol, xla)
    found = {}
    for name, check in CHECKS:
        try:
            found[name] = list(check(subject))
        except Exception as error:  # any error a bijector raises is a fault of it
            first_line = str(error).strip().splitlines()[:1]
            found[name] = [f"raised {type(error).__name__}: {' '.join(first_line)}"]
    report = Report(getattr(bijector, "name", type(bijector).__name__), found)
    if report.faults:
        raise BijectorFault(report)
    return report
