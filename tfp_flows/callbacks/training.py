"""The callbacks that `fit` adds by itself."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from tfp_flows.keras_engine import keras


class EpochEnds(keras.callbacks.Callback):
    """Ends epochs in the training state; the first of all callbacks, since others save it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None):
        self.model.training_state.end_epoch(epoch)


class StopWhenDiverged(keras.callbacks.Callback):
    """Ends a training that meets NaN or infinity, as Keras's `TerminateOnNaN` does.

    It checks at the end of each epoch, warns with the cause, and lets the other callbacks and
    `fit` end as usual: `EarlyStopping` restores the best weights, and there is a `History`.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None):
        guard, loss = self.model.training_state.guard, (logs or {}).get("loss", 0.0)
        skipped = guard.take()
        found = [guard.describe(skipped, self.model.optimizer)]
        stops = bool(skipped.not_finite)
        if not math.isfinite(loss) and not sum(skipped):
            stops = True
            found.append(
                f"The loss became {loss}, though all gradients were finite: some examples have "
                "no density. Look for rows outside of the support, and for outliers."
            )
        unscored = guard.take_unscored()
        if unscored:
            found.append(f"The validation data are at fault: {unscored}.")
        if stops:
            self.model.stop_training = True
            found.append("Training stops.")
            if not all(np.isfinite(v.numpy()).all() for v in self.model.flow.trainable_variables):
                found.append("Weights are no longer finite: go back to earlier ones.")
        text = " ".join(part for part in found if part)
        if text:
            warnings.warn(f"Epoch {epoch + 1}: {text}", stacklevel=2)
