"""Flows given a class label."""

from __future__ import annotations

from tfp_flows.conditioners import LabelEmbedding
from tfp_flows.distributions import Flow


def with_labels(flow: Flow, classes: int, name: str | None = None) -> Flow:
    """The same flow with whole-number labels as its context, in place of vectors.

    Each class gets a trainable vector of the width that the flow takes as context. Variables are
    shared with `flow`.

    Args:
      flow: made with `context_shape=(width,)`.
      classes: how many; labels are `0 ... classes - 1`.
      name: name of the distribution.

    Raises:
      ValueError: the flow takes no vector as context, or there is no class.

    Example:
      >>> import tfp_flows as flows
      >>> flow = with_labels(flows.glow((4, 4, 1), 1, 1, 8, context_shape=(3,)), classes=10)
      >>> flow.sample(4, seed=0, context=[0, 0, 7, 9]).shape
      TensorShape([4, 4, 4, 1])
    """
    shape = getattr(flow, "context_shape", None)
    if shape is None or len(shape) != 1:
        raise ValueError(
            f"with_labels takes a flow made with context_shape=(width,), got one with {shape}."
        )
    if classes < 1:
        raise ValueError(f"classes must be 1 or more, got {classes}.")
    encoder = LabelEmbedding(classes, shape[0], dtype=flow.dtype.name, name="labels")
    name = name or flow.parameters["name"]
    return Flow(flow.distribution, flow.bijector, (), encoder, name=name, kind=flow.name)
