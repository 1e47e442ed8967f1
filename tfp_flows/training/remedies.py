"""What `FlowHealth` does to a training: it goes back to a healthy state, and slows down."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfp_flows.keras_engine import keras


class State:
    """The variables of a model's flow and of its optimizer, but for the learning rate, as of now.

    Args:
      model: a `FlowModel`, compiled.
    """

    def __init__(self, model: keras.Model):
        variables, rate = model.optimizer.variables, _rate(model.optimizer)
        variables = variables() if callable(variables) else variables  # optimizers of old
        kept = [*model.flow.variables, *(v for v in variables if v is not rate)]
        self._values: list[tuple[Any, np.ndarray]] = [(v, v.numpy()) for v in kept]

    def restore(self) -> None:
        """Gives the variables the values that they had."""
        for variable, value in self._values:
            variable.assign(value)


def refuse_schedule(optimizer: Any) -> None:
    """Raises ValueError for a learning rate that cannot be lowered."""
    rate = _rate(optimizer)
    if callable(rate):
        raise ValueError(
            f"The learning rate follows a {type(rate).__name__}, which cannot be lowered. Give "
            "FlowHealth factor=1 (to roll back alone) or another action, or the optimizer a number."
        )


def _rate(optimizer: Any) -> Any:
    """The learning rate as the optimizer holds it: a variable, or a schedule."""
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "_learning_rate", None)
