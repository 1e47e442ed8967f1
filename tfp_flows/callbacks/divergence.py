"""The end of a training that has diverged."""

from __future__ import annotations

import math
import warnings

import numpy as np

from tfp_flows.keras_engine import keras


class StopWhenDiverged(keras.callbacks.Callback):
    """Ends a training that has met NaN or infinity, as Keras's `TerminateOnNaN` does.

    It looks at the end of each epoch, warns with the cause, and lets the other callbacks and
    `fit` come to their usual end: `EarlyStopping` restores the best weights, and there is a
    `History`.
    """

    def on_epoch_end(self, epoch, logs=None):
        guard, loss = self.model._guard, (logs or {}).get("loss", 0.0)
        left_out = guard.take()
        found = [guard.describe(left_out, self.model.optimizer)]
        stops = bool(left_out.not_finite)
        if not math.isfinite(loss) and not sum(left_out):
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
