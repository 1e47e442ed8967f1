"""Loss scaling for networks in float16, under either Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import private
from tfp_flows.core.stack import networks
from tfp_flows.keras_engine import IS_LEGACY, keras

tfd = tfp.distributions

if IS_LEGACY:
    LossScaleOptimizer = keras.mixed_precision.LossScaleOptimizer
else:
    LossScaleOptimizer = keras.optimizers.LossScaleOptimizer


def with_loss_scaling(optimizer: Any, flow: tfd.Distribution) -> Any:
    """The optimizer, with Keras's dynamic loss scaling if a network of `flow` needs it.

    Below 6e-8 a float16 is zero, which gradients often are; bfloat16 has float32's range.
    """
    nets = [layer for n in networks(flow) for layer in n.layers]
    layers = [layer for net in nets for layer in private.sublayers(net)]
    if not any(layer.compute_dtype == "float16" for layer in layers):
        return optimizer
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, LossScaleOptimizer):
        return optimizer
    return LossScaleOptimizer(optimizer)


def scales(optimizer: Any) -> bool:
    """Whether the optimizer scales losses; it then skips gradients that are not finite itself."""
    return isinstance(optimizer, LossScaleOptimizer)


def scale_state(optimizer: Any) -> dict[str, tf.Variable]:
    """The loss scale and its counter where Keras does not save them: under tf_keras."""
    if not (IS_LEGACY and scales(optimizer) and optimizer.dynamic):
        return {}
    return private.loss_scale_state(optimizer)


def scaled(loss: tf.Tensor, optimizer: Any) -> tf.Tensor:
    """The loss whose gradient this optimizer needs."""
    if IS_LEGACY:
        return optimizer.get_scaled_loss(loss) if scales(optimizer) else loss
    return optimizer.scale_loss(loss)


def unscaled(gradients: Sequence[tf.Tensor], optimizer: Any) -> Sequence[tf.Tensor]:
    """The gradients of a scaled loss as this optimizer expects them."""
    if IS_LEGACY and scales(optimizer):
        return optimizer.get_unscaled_gradients(gradients)
    return gradients  # Keras 3's optimizers do that themselves
