"""The arguments that ready-made flows share, documented once, and the decorator of these flows."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence

from tfp_flows.distributions import Flow

# Arguments that mean the same in every ready-made flow; `ready_made` adds them to docstrings.
ARGUMENTS = {
    "event_shape": "`(features,)`.",
    "layers": "number of layers.",
    "scale_map": (
        'from raw outputs of the network to log-scales: `"exp_tanh"`, `"sigmoid"`, `"clamp"`, '
        '`"softplus"` or a function.'
    ),
    "blocks": "number of residual blocks in each network, for images.",
    "activation": "a Keras activation, by name.",
    "dropout": "dropout rate inside the networks, while training.",
    "network_dtype": (
        "dtype policy of the networks. None: the global policy of Keras if that is a mixed one, "
        'otherwise the dtype of the flow. `"mixed_bfloat16"` computes networks in low precision; '
        "the flow's own arithmetic stays exact."
    ),
    "stacked": (
        "whether layers hold their variables stacked, as `fb.Repeat` does, which makes optimizer "
        "updates cheap. If not, every layer has variables of its own."
    ),
    "reversible": (
        "whether training recomputes activations by inversion instead of storing them: memory "
        "does not grow with depth, and a step takes somewhat longer."
    ),
    "data_bijector": (
        "a bijector applied last, next to the data, to keep them within bounds, such as "
        "`tfb.Sigmoid(low, high)` or `tfb.Exp()`. Data on or beyond the bounds have log-density "
        "minus infinity."
    ),
    "context_shape": (
        "`(k,)` for a flow conditioned on vectors, which all networks get as `context=`, "
        "`[..., k]`. None: the flow takes no context."
    ),
    "standardize_context": (
        "whether contexts are standardised by the mean and standard deviation of those that "
        "`flows.initialize` (or the first `fit`) gets."
    ),
    "dtype": "dtype of the flow: float16, float32 or float64.",
    "name": "name of the distribution.",
}


def ready_made(
    make: Callable[..., Flow] | None = None, like: Callable[..., Flow] | None = None
) -> Callable[..., Flow]:
    """Decorates a function that makes flows.

    Its docstring describes the arguments that are its own, before the section `Raises`; the others
    are added from `ARGUMENTS`, all in the order of the signature. Its default `name` becomes the
    kind of the flow, which has no name then: see `Flow`.

    Args:
      make: a function with an argument `name`.
      like: another ready-made flow, whose descriptions come before those in `ARGUMENTS`.

    Raises:
      KeyError: if an argument is not described anywhere.
    """
    if make is None:
        return functools.partial(ready_made, like=like)
    parameters = inspect.signature(make).parameters
    kind = parameters["name"].default
    shared = ARGUMENTS | _described(like and like.__doc__)
    if make.__doc__:  # none under python -OO
        make.__doc__ = _with_arguments(inspect.cleandoc(make.__doc__), list(parameters), shared)

    @functools.wraps(make)
    def make_flow(*args, **kwargs) -> Flow:
        flow = make(*args, **kwargs)
        return flow.copy(name=None, kind=kind) if flow.name == kind else flow

    return make_flow


def _described(doc: str | None) -> dict[str, str]:
    """`{argument: description}` of a clean docstring."""
    section = re.search(r"^Args:\n((?:  .*\n)*)", doc or "", flags=re.MULTILINE)
    entries = re.findall(
        r"^  (\w+): (.*(?:\n    .*)*)", section[1] if section else "", flags=re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in entries}


def _with_arguments(doc: str, names: Sequence[str], shared: dict[str, str]) -> str:
    """The docstring, with all arguments described, in this order."""
    texts = shared | _described(doc)
    entries = (f"{name}: {texts[name]}" for name in names)
    wrap = functools.partial(textwrap.fill, width=96, break_on_hyphens=False)
    lines = (wrap(e, initial_indent="  ", subsequent_indent="    ") for e in entries)
    place = r"^(?:Args:\n(?:  .*\n)*\n)?(?=Raises:)"
    before, after = re.split(place, doc, maxsplit=1, flags=re.MULTILINE)
    return "\n".join([f"{before}Args:", *lines, "", after])
