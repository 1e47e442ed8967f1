"""What the ready-made flows share: validated arguments, and the flow around the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows import bijectors as fb
from tfp_flows.conditioners import LabelEmbedding
from tfp_flows.core import FlowBijector, private
from tfp_flows.distributions import Flow
from tfp_flows.keras_engine import IS_LEGACY, keras

tfb, tfd = tfp.bijectors, tfp.distributions

FLOW_DTYPES = (tf.float16, tf.float32, tf.float64)  # bfloat16 has too few digits for an inverse


class FlowBuilder:
    """The arguments that all ready-made flows share, validated, and the flow around its layers.

    Args:
      name: name of the flow, for messages too.
      event_shape: shape of the data's events.
      dtype, data_bijector, context_shape, standardize_context, network_dtype: see `ARGUMENTS`.
      ranks: the ranks of events that the flow can model: 1 for vectors, 3 for images.

    Attributes:
      shape: shape of the events that the layers see. It is the event shape, unless the data
        bijector has latents of another shape than its data.
      context: shape of one example's context, or None.
      dtype: of the flow.
      network_dtype: dtype policy of its networks.

    Raises:
      TypeError: if the data bijector is not an injective `tfb.Bijector`.
      ValueError: if a shape or dtype does not fit.
    """

    def __init__(
        self,
        name: str,
        event_shape: Sequence[int] | int,
        dtype: tf.DType,
        data_bijector: tfb.Bijector | None = None,
        context_shape: Sequence[int] | int | None = None,
        standardize_context: bool = True,
        network_dtype: str | None = None,
        ranks: tuple[int, ...] = (1,),
    ):
        self.name, self._data_bijector = name, data_bijector
        self._standardize_context = standardize_context
        self.dtype = _validated_dtype(dtype, name)
        self.network_dtype = _network_policy(network_dtype, self.dtype)
        self.shape = self._layer_shape(event_shape, ranks)
        self.context = _validated_context_shape(context_shape, name)

    def flow(self, layers: tfb.Bijector, base: tfd.Distribution | None = None) -> Flow:
        """The flow.

        Args:
          layers: the bijector from latents to what the data bijector takes.
          base: distribution of the latents; None: independent standard normals over a vector.
        """
        if base is None:
            zero, one = tf.zeros([], self.dtype), tf.ones([], self.dtype)
            base = tfd.Sample(tfd.Normal(zero, one), math.prod(self.shape), name="base")
        if self._data_bijector is not None:
            self._validate_data_dtype()
            layers = fb.Chain([self._data_bijector, layers])
        return Flow(
            base,
            layers,
            self.context,
            standardize_context=self._standardize_context,
            name=self.name,
        )

    def _layer_shape(
        self, event_shape: Sequence[int] | int, ranks: tuple[int, ...]
    ) -> tuple[int, ...]:
        shape, bijector = _as_tuple(event_shape), self._data_bijector
        if bijector is not None:
            if not (isinstance(bijector, tfb.Bijector) and private.is_injective(bijector)):
                raise TypeError(
                    f"{self.name}: data_bijector must be an injective tfb.Bijector, as "
                    f"tfb.Sigmoid() for data in (0, 1); got {bijector!r}."
                )
            shape = tuple(bijector.inverse_event_shape(tf.TensorShape(shape)))
        if len(shape) not in ranks or min(shape) < 1:
            kinds = {1: "(features,)", 3: "(height, width, channels)"}
            wanted = " or ".join(kinds[rank] for rank in ranks)
            raise ValueError(f"{self.name} needs event_shape {wanted}, got {shape}.")
        return shape

    def _validate_data_dtype(self) -> None:
        """Raises ValueError if the data bijector does not compute in the dtype of the flow."""
        bijector, dtype = self._data_bijector, self.dtype
        if any(isinstance(m, FlowBijector) for m in (bijector, *bijector.submodules)):
            return
        try:
            found = bijector.forward(tf.zeros([1, *self.shape], dtype)).dtype
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"{self.name} computes in {dtype.name}, and data_bijector {bijector!r} cannot "
                f"take events of shape {self.shape} in it: {error}"
            ) from error
        if found != dtype:
            raise ValueError(f"{self.name}: data_bijector gives {found.name}, not {dtype.name}.")


def _as_tuple(shape: Sequence[int] | int) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)


def _validated_dtype(dtype: tf.DType, name: str) -> tf.DType:
    dtype = tf.as_dtype(dtype)
    if dtype not in FLOW_DTYPES:
        raise ValueError(
            f"{name} computes in {', '.join(t.name for t in FLOW_DTYPES)}, got {dtype.name}. For "
            'speed give network_dtype="mixed_bfloat16": networks in low precision, an exact flow.'
        )
    return dtype


def _network_policy(requested: str | None, dtype: tf.DType) -> str:
    """The requested dtype policy; or else Keras's global one, or that of the flow.

    Keras's counts where it is a mixed one whose variables have the flow's dtype, as after
    `keras.mixed_precision.set_global_policy("mixed_bfloat16")`.
    """
    if requested is not None:
        return requested
    current = keras.mixed_precision.global_policy() if IS_LEGACY else keras.config.dtype_policy()
    return current.name if current.variable_dtype == dtype.name else dtype.name


def _validated_context_shape(shape: Sequence[int] | int | None, name: str) -> tuple | None:
    if shape is None:
        return None
    shape = _as_tuple(shape)
    if len(shape) != 1 or min(shape) < 1:
        raise ValueError(
            f"{name} takes contexts of rank 1, as context_shape=(k,), got {shape}. For labels see "
            "flows.with_labels."
        )
    return shape


def with_labels(flow: Flow, classes: int, name: str | None = None) -> Flow:
    """The same flow with class labels as its context, in place of vectors.

    Each class gets a trainable vector of the width that the flow takes as context. Variables are
    shared with `flow`.

    Args:
      flow: made with `context_shape=(width,)`.
      classes: number of classes; labels are `0 ... classes - 1`.
      name: name of the distribution.

    Raises:
      ValueError: if the flow does not take a vector as context, or if `classes < 1`.

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
