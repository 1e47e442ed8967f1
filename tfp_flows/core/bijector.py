"""The base class: a family gives value and log-det together, TFP's methods follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core import private
from tfp_flows.core.copying import Copyable
from tfp_flows.core.memo import PairMemo
from tfp_flows.core.reversible import recompute_input
from tfp_flows.core.shapes import flat_batch, restored, spread
from tfp_flows.core.variables import FrozenByNetworks

tfb = tfp.bijectors

Visitor = Callable[[tfb.Bijector, tf.Tensor, Any, str], tf.Tensor]


class FlowBijector(FrozenByNetworks, Copyable, tfb.Bijector):
    """A `tfb.Bijector` that computes `(value, log|det J|)` in one evaluation.

    A family implements two methods, and nothing else of TFP's protocol:

    * `_forward_and_log_det(x, context) -> (y, log|det dy/dx|)`
    * `_inverse_and_log_det(y, context) -> (x, log|det dx/dy|)`

    The log-det is reduced over the minimal event dimensions. `forward` goes from latent to
    data. Values are never stale (see `tfp_flows.core.memo`). Two instances are equal only if
    they are one, so they never share anything by accident.

    Args:
      forward_min_event_ndims: event dimensions of the latent side.
      inverse_min_event_ndims: event dimensions of the data side; the same if None.
      is_constant_jacobian: whether the log-det depends on parameters alone.
      parameters: the constructor's arguments, made variables included, so that `copy()`
        shares them.
      name: names of equal bijectors in one chain may be equal.

    Example:
      >>> class Double(FlowBijector):
      ...     def __init__(self):
      ...         super().__init__(forward_min_event_ndims=0, parameters={}, name="double")
      ...     def _forward_and_log_det(self, x, context):
      ...         return 2.0 * x, tf.fill(tf.shape(x), tf.math.log(2.0))
      ...     def _inverse_and_log_det(self, y, context):
      ...         return y / 2.0, tf.fill(tf.shape(y), -tf.math.log(2.0))
      >>> float(Double().forward_log_det_jacobian(1.0))
      0.6931471824645996
    """

    _TF_MODULE_IGNORED_PROPERTIES = tfb.Bijector._TF_MODULE_IGNORED_PROPERTIES | {
        "_parameters",
        "_memo",
    }

    def __init__(
        self,
        *,
        forward_min_event_ndims: int,
        inverse_min_event_ndims: int | None = None,
        is_constant_jacobian: bool = False,
        parameters: dict[str, Any],
        name: str,
    ):
        if inverse_min_event_ndims is None:
            inverse_min_event_ndims = forward_min_event_ndims
        super().__init__(
            forward_min_event_ndims=forward_min_event_ndims,
            inverse_min_event_ndims=inverse_min_event_ndims,
            is_constant_jacobian=is_constant_jacobian,
            parameters=parameters,
            name=name,
        )
        self._memo = PairMemo(self)

    # What a family writes.

    def _forward_and_log_det(self, x: tf.Tensor, context) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError(f"{type(self).__name__}._forward_and_log_det")

    def _inverse_and_log_det(self, y: tf.Tensor, context) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError(f"{type(self).__name__}._inverse_and_log_det")

    def _initialize(self, y: tf.Tensor, context) -> tf.Tensor:
        """Sets data-dependent variables from the batch `y`; returns its latents."""
        return self._inverse_and_log_det(y, context)[0]

    def _reinitialised(self, turn: int) -> list[tuple[tf.Variable, np.ndarray]]:
        """Another draw of variables that start at random; `turn` counts the draws."""
        return []

    def _starts(self) -> list[Start]:
        """How the data-dependent variables of this very bijector show that they wait."""
        return []

    @property
    def needs_initialization(self) -> bool:
        """Whether a data-dependent variable here still waits for `flows.initialize`."""
        return any(start.waits() for start in starts_in((self, *self.submodules)))

    def _recompute(self, out, d_out, d_log_det, event_ndims, sources, context, forward):
        """Runs an evaluation backwards: its input and gradients, from its output.

        Args:
          out: what `forward_and_log_det` (if `forward`) or `inverse_and_log_det` gave.
          d_out, d_log_det: gradients with respect to its results.
          event_ndims: as given to that evaluation.
          sources: tensors that it reads, whose gradients are wanted.
          context: as given to that evaluation.
          forward: which evaluation it was.

        Returns:
          `(input, d_input, d_sources)`; None stands for a source that is not used.
        """
        there, back = self.forward_and_log_det, self._inverse
        if not forward:
            there, back = self.inverse_and_log_det, self._forward
        return recompute_input(
            lambda value: there(value, event_ndims, context),
            lambda out: back(out, context),
            out,
            d_out,
            d_log_det,
            sources,
        )

    # What users call.

    def forward_and_log_det(
        self, x, event_ndims: int | None = None, context=None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `y = f(x)` and `log|det df/dx|`, from one evaluation.

        Args:
          x: latents, `[..., *event]`.
          event_ndims: event dimensions that the log-det sums over; the minimum if None.
          context: `[..., width]`, for bijectors that take one; it is cast to the dtype of `x`.

        Raises:
          TypeError: `x` is not floating point.
          ValueError: `x` has too few dimensions or the wrong event shape; a context of unknown
            rank.
        """
        y, log_det = self.checked_forward_and_log_det(tf.convert_to_tensor(x), context)
        return y, reduce_log_det(log_det, x, event_ndims, self.forward_min_event_ndims)

    def inverse_and_log_det(
        self, y, event_ndims: int | None = None, context=None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `x = f^-1(y)` and `log|det df^-1/dy|`; see `forward_and_log_det`."""
        x, log_det = self.checked_inverse_and_log_det(tf.convert_to_tensor(y), context)
        return x, reduce_log_det(log_det, y, event_ndims, self.inverse_min_event_ndims)

    def inverse_within(
        self, y, event_ndims: int, context=None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """As `inverse_and_log_det`, and for each event whether it has a latent.

        Where there is none, the latent and the log-det are those of other data, and have no
        gradient. A bijector of bounded data, or a container of some, implements it.

        Returns:
          `(x, log_det, inside)`; None for `inside` where all data have latents.
        """
        return *self.inverse_and_log_det(y, event_ndims, context), None

    def diagnostics(self, y: tf.Tensor, context=None) -> dict[str, tf.Tensor]:
        """Scalars by name that tell how healthy this layer is; none by default.

        `FlowHealth` records them next to what it measures of every layer, and compares those
        called `condition` and `saturation` with its limits. The name `unit_log_det` is for the
        part of the log-det (from data to latent, in nats per entry of the event) that follows from
        the unit of the data: it does not count in the log-det that is recorded.

        Args:
          y: data of this layer, `[n, *event]`.
          context: as for `inverse_and_log_det`.
        """
        return {}

    def visit(self, y: tf.Tensor, context, path: str, visitor: Visitor) -> tf.Tensor:
        """Takes data to latents, layer by layer; for eager mode.

        A container implements it by visiting its parts; any other bijector is one layer.

        Args:
          y: data, `[n, *event]`.
          context: as for `inverse_and_log_det`.
          path: what the paths of this bijector's variables begin with.
          visitor: called as `visitor(layer, y, context, path)` for each layer, with the data that
            reach it; returns its latents.

        Returns:
          The latents of `y`.
        """
        return visitor(self, y, context, path)

    def checked_forward_and_log_det(self, x, context):
        """`_forward_and_log_det`, after the checks that every family shares."""
        self._check_argument(x, self.forward_min_event_ndims, "forward")
        context = self._checked_context(context, x.dtype)
        if x.shape.rank is None:
            return self._flat_evaluation(x, context, forward=True)
        return self._forward_and_log_det(x, context)

    def checked_inverse_and_log_det(self, y, context):
        """`_inverse_and_log_det`, after the checks that every family shares."""
        self._check_argument(y, self.inverse_min_event_ndims, "inverse")
        context = self._checked_context(context, y.dtype)
        if y.shape.rank is None:
            return self._flat_evaluation(y, context, forward=False)
        return self._inverse_and_log_det(y, context)

    def _flat_evaluation(self, value, context, forward: bool):
        """Of a tensor of unknown rank: evaluates it with one batch dimension."""
        ndims = self.forward_min_event_ndims if forward else self.inverse_min_event_ndims
        evaluate = self._forward_and_log_det if forward else self._inverse_and_log_det
        flat, batch = flat_batch(value, [None] * ndims, self.name)
        if context is not None:
            context = spread(context, batch, [context.shape[-1]])
        out, log_det = evaluate(flat, context)
        return restored(out, batch), restored(log_det, batch) if log_det.shape.rank else log_det

    def _check_argument(self, tensor: tf.Tensor, event_ndims: int, direction: str) -> None:
        if not tf.is_tensor(tensor):
            raise TypeError(
                f"{self.name}.{direction} takes tensors, got a symbolic {type(tensor).__name__}. "
                "Flows are trained by flows.FlowModel; inside another Keras model, call the "
                "bijector in the `call` of a layer of your own."
            )
        if not tensor.dtype.is_floating:
            raise TypeError(
                f"{self.name}.{direction} takes floating-point tensors, got {tensor.dtype.name}. "
                "Cast continuous data with tf.cast; for integer pixels use flows.Dequantized."
            )
        if tensor.shape.rank is not None and tensor.shape.rank < event_ndims:
            raise ValueError(
                f"{self.name}.{direction} takes tensors with at least {event_ndims} event "
                f"dimension(s), got shape {tensor.shape}."
            )

    def _checked_context(self, context, dtype: tf.DType) -> tf.Tensor | None:
        """The context as a tensor: an array, a list or a variable will do; whole numbers stay."""
        if context is None:
            return None
        if not isinstance(context, tf.Tensor):
            hint = None if isinstance(context, np.ndarray) else dtype
            context = tf.convert_to_tensor(context, dtype_hint=hint)
        if context.shape.rank is None:
            raise ValueError(
                f"{self.name} takes a context of shape [..., width], got one of unknown rank. Give "
                "it a shape: tf.ensure_shape(context, [None, width])."
            )
        return tf.cast(context, dtype) if context.dtype.is_floating else context

    # TFP's methods, all derived.

    @property
    def _cache(self) -> PairMemo:
        return self._memo

    def _forward(self, x, context=None):
        return self._forward_and_log_det(x, context)[0]

    def _inverse(self, y, context=None):
        return self._inverse_and_log_det(y, context)[0]

    def _forward_log_det_jacobian(self, x, context=None):
        return self._forward_and_log_det(x, context)[1]

    def _inverse_log_det_jacobian(self, y, context=None):
        return self._inverse_and_log_det(y, context)[1]

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        # TFP's containers key their caches by the hash of their parts. Taking in the values of
        # the variables makes those caches miss after an update, and where a gradient is wanted.
        return hash((id(self), self._memo.epoch()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._describe()})"

    __str__ = __repr__

    def _describe(self) -> str:
        """The arguments worth reading in a `repr`."""
        return ""


def starts_in(modules: Iterable[tf.Module]) -> Iterator[Start]:
    """The data-dependent layers among `modules`."""
    return (start for m in modules if isinstance(m, FlowBijector) for start in m._starts())


def visit(b: tfb.Bijector, y: tf.Tensor, context, path: str, visitor: Visitor) -> tf.Tensor:
    """`FlowBijector.visit` of any bijector: of TFP's, a `tfb.Chain` is opened."""
    if isinstance(b, FlowBijector):
        return b.visit(y, context, path, visitor)
    if type(b) is private.TFPChain:
        return visit_parts(b.bijectors, y, context, path, visitor)
    return visitor(b, y, context, path)


def visit_parts(
    bijectors: Iterable[tfb.Bijector], y: tf.Tensor, context, path: str, visitor: Visitor
) -> tf.Tensor:
    """`FlowBijector.visit` of a chain of bijectors."""
    for i, b in enumerate(bijectors):
        y = visit(b, y, context, f"{path}.bijectors.{i}", visitor)
    return y


def reduce_log_det(log_det, tensor, event_ndims: int | None, min_event_ndims: int) -> tf.Tensor:
    """Sums a log-det over the event dimensions beyond the minimal ones."""
    extra = 0 if event_ndims is None else event_ndims - min_event_ndims
    if extra < 0:
        raise ValueError(f"event_ndims must be at least {min_event_ndims}, got {event_ndims}.")
    if extra == 0:
        return log_det
    end = tf.rank(tensor) - min_event_ndims
    sizes = tf.shape(tensor)[end - extra : end]
    if log_det.shape.rank == 0:
        return log_det * tf.cast(tf.reduce_prod(sizes), log_det.dtype)
    full = log_det * tf.ones(sizes, log_det.dtype)
    return tf.reduce_sum(full, axis=list(range(-extra, 0)))


class Start(NamedTuple):
    """How a layer shows that it waits for its first data: no flag, and parameters still at 0.

    The variables of stacked layers begin with the shape of the flag.
    """

    flag: tf.Variable
    zeros: tuple[tf.Variable, ...]

    def waits(self) -> bool:
        """Whether it, or one of a stack, waits."""
        left = self.flag.numpy()
        for variable in self.zeros:
            moved = variable.numpy() != 0.0
            left = left | np.any(moved, axis=tuple(range(left.ndim, moved.ndim)))
        return not np.all(left)

    def is_left(self) -> tf.Tensor:
        """Whether a single layer does not wait, as a boolean tensor; in graphs too."""
        return tf.reduce_any([self.flag, *(tf.reduce_any(v != 0.0) for v in self.zeros)])
