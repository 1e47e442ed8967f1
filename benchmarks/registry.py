"""Who takes part: where each contender's code is, and in which environment it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

OURS = "ours"
REVERSIBLE = "ours, reversible"
HAND = "hand-written TF"
TFP_XLA = "TFP, XLA"


@dataclass(frozen=True)
class Entry:
    """One contender.

    Attributes:
      classes: workload -> `module:class` in `benchmarks.contenders`.
      role: "ours", "peer" (a library) or "reference" (hand-written code).
      environment: "tf", "torch" or "jax".
      sweep: whether it is measured at every depth.
      options: for the class.
    """

    name: str
    classes: dict[str, str]
    role: str
    environment: str
    sweep: bool = True
    options: dict = field(default_factory=dict)


def _entry(
    name, role, environment, vectors="", w=("W1", "W3"), images="", sweep=True, **options
) -> Entry:
    """`vectors` and `images` are the modules for them; `w` are the workloads of vectors."""
    kinds = {"W1": "RealNVP", "W3": "Spline"}
    classes = {k: f"benchmarks.contenders.{vectors}:{kinds[k]}" for k in w if vectors}
    if images:
        classes["W2"] = f"benchmarks.contenders.{images}:Glow"
    return Entry(name, classes, role, environment, sweep, options)


ENTRIES = {
    e.name: e
    for e in (
        _entry(OURS, OURS, "tf", "ours", images="ours"),
        _entry(REVERSIBLE, OURS, "tf", images="ours", reversible=True),
        _entry(HAND, "reference", "tf", "handwritten", images="handwritten_glow"),
        _entry("hand-written TF, XLA", "reference", "tf", "handwritten", jit_compile=True),
        _entry("TFP", "peer", "tf", "tfp", images="tfp"),
        # Compiling it deeper takes many minutes.
        _entry(TFP_XLA, "peer", "tf", "tfp", images="tfp", sweep=False, jit_compile=True),
        _entry("nflows", "peer", "torch", "torch_nflows", images="torch_nflows"),
        _entry("normflows", "peer", "torch", "torch_normflows", images="torch_normflows"),
        _entry("normflows, compiled", "peer", "torch", "torch_normflows", ("W1",), compiled=True),
        _entry("zuko", "peer", "torch", "torch_zuko"),
        _entry("zuko, compiled", "peer", "torch", "torch_zuko", ("W3",), compiled=True),
        _entry("FrEIA", "peer", "torch", "torch_freia", ("W1",), images="torch_freia"),
        _entry("flowjax", "peer", "jax", "jax_flowjax"),
        _entry("distrax", "peer", "jax", "jax_distrax"),
    )
}


def contenders(workload: str, sweep: bool, pattern: str | None = None) -> list[Entry]:
    """The contenders of a workload; with a pattern, ours and those that it names."""
    words = [w.strip().lower() for w in (pattern or "").split(",") if w.strip()]
    return [
        e
        for e in ENTRIES.values()
        if workload in e.classes
        and (e.sweep or not sweep)
        and (not words or e.name == OURS or any(w in e.name.lower() for w in words))
    ]
