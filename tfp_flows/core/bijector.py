"""The base class: a subclass computes value and log-det together, TFP's methods follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.core.copying import Copyable
from tfp_flows.core.memo import Memo
from tfp_flows.core.reversible import recompute_input
from tfp_flows.core.shapes import flat_batch, restored, spread
from tfp_flows.core.variables import FrozenByNetworks

tfb = tfp.bijectors

Context = tf.Tensor | None
Pair = tuple[tf.Tensor, tf.Tensor]  # value and log-det
# (layer, its data, context) -> (latents, what was measured: a nest of tensors)
Measure = Callable[[tfb.Bijector, tf.Tensor, Context], tuple[tf.Tensor, Any]]


class FlowBijector(FrozenByNetworks, Copyable, tfb.Bijector):
    """A `tfb.Bijector` that computes `(value, log|det J|)` in one evaluation.

    `forward` goes from latent `x` to data `y`. A subclass implements two methods:

    * `_forward_and_log_det(x, context) -> (y, log|det dy/dx|)`
    * `_inverse_and_log_det(y, context) -> (x, log|det dx/dy|)`

    They get checked arguments, of these shapes:

    * `x` is `[*batch, *event]`, where `event` has `forward_min_event_ndims` dimensions, and `batch`
      any number of them (a known one); `y` likewise, with `inverse_min_event_ndims`. Both have the
      same `batch`, and any floating-point dtype, which the results keep.
    * The log-det is `[*batch]`, or broadcasts to it: `[]` if it is the same for all examples.
    * `context` is `[..., width]`, where `...` broadcasts to the batch dimensions of the examples;
      floats have the dtype of `x`. It is None if none is given.
    * With `event_ndims` above the minimum, the public methods sum the log-det over the dimensions
      that the event has more.

    A bijector that changes the shape of the event overrides TFP's `_forward_event_shape`,
    `_inverse_event_shape` and their `_tensor` twins.

    No value is ever out of date (see `tfp_flows.core.memo`). Two instances are equal only if they
    are the same object, so they never share anything by accident.

    Args:
      forward_min_event_ndims: event dimensions of the latent side.
      inverse_min_event_ndims: event dimensions of the data side; the same if None.
      is_constant_jacobian: whether the log-det depends on the parameters alone.
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
        self._memo = Memo(self)

    # What a subclass implements.

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        raise NotImplementedError(f"{type(self).__name__}._forward_and_log_det")

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        raise NotImplementedError(f"{type(self).__name__}._inverse_and_log_det")

    def _initialize(self, y: tf.Tensor, context: Context) -> tf.Tensor:
        """Sets data-dependent variables from the batch `y`; returns its latents."""
        return self._inverse_and_log_det(y, context)[0]

    def _reinitialised(self, index: int) -> list[tuple[tf.Variable, np.ndarray]]:
        """New values of the variables that start at random; they differ for each `index`."""
        return []

    def _init_states(self) -> list[InitState]:
        """The states of this bijector's own data-dependent initialisation, not of its parts'."""
        return []

    @property
    def needs_initialization(self) -> bool:
        """Whether a data-dependent variable here has not been set by `flows.initialize` yet."""
        return any(state.is_pending() for state in init_states_in((self, *self.submodules)))

    def _recompute(
        self,
        out: tf.Tensor,
        d_out: tf.Tensor,
        d_log_det: tf.Tensor,
        event_ndims: int,
        sources: Sequence[tf.Tensor],
        context: Context,
        forward: bool,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | None]]:
        """Backpropagates through an evaluation that kept nothing but its output.

        A subclass overrides it where inversion and gradient have work in common.

        Args:
          out: the value that `forward_and_log_det` (if `forward`) or `inverse_and_log_det` gave.
          d_out, d_log_det: gradients with respect to the value and the log-det.
          event_ndims: as in that evaluation.
          sources: tensors that it reads, whose gradients are wanted.
          context: as in that evaluation.
          forward: which evaluation it was.

        Returns:
          `(input, d_input, d_sources)`; None stands for a source that is not used.
        """
        evaluate, invert = self.forward_and_log_det, self.inverse_and_log_det
        if not forward:
            evaluate, invert = invert, evaluate
        return recompute_input(
            lambda value: evaluate(value, event_ndims, context),
            lambda out: invert(out, event_ndims, context)[0],
            out,
            d_out,
            d_log_det,
            sources,
        )

    # What users call.

    def forward_and_log_det(
        self, x: Any, event_ndims: int | None = None, context: Any = None
    ) -> Pair:
        """Returns `y = f(x)` and `log|det df/dx|`, from one evaluation.

        Args:
          x: latents, `[..., *event]`.
          event_ndims: event dimensions of `x` that the log-det sums over; None: the minimum.
          context: `[..., width]`, for bijectors that take one; floats are cast to the dtype of `x`.

        Raises:
          TypeError: if `x` is not floating-point.
          ValueError: if `x` has too few dimensions or another event shape, if `event_ndims` is
            below the minimum, or if the context has an unknown rank.
        """
        min_ndims = self.forward_min_event_ndims
        x = self._check_argument(x, min_ndims, "forward")
        context = self._checked_context(context, x.dtype)
        if x.shape.rank is None:
            y, log_det = self._flat_evaluation(x, context, forward=True)
        else:
            y, log_det = self._forward_and_log_det(x, context)
        return y, reduce_log_det(log_det, x, event_ndims, min_ndims)

    def inverse_and_log_det(
        self, y: Any, event_ndims: int | None = None, context: Any = None
    ) -> Pair:
        """Returns `x = f^-1(y)` and `log|det df^-1/dy|`, from one evaluation.

        Args:
          y: data, `[..., *event]`.
          event_ndims: event dimensions of `y` that the log-det sums over; None: the minimum.
          context: `[..., width]`, for bijectors that take one; floats are cast to the dtype of `y`.

        Raises:
          TypeError: if `y` is not floating-point.
          ValueError: as for `forward_and_log_det`.
        """
        min_ndims = self.inverse_min_event_ndims
        y = self._check_argument(y, min_ndims, "inverse")
        context = self._checked_context(context, y.dtype)
        if y.shape.rank is None:
            x, log_det = self._flat_evaluation(y, context, forward=False)
        else:
            x, log_det = self._inverse_and_log_det(y, context)
        return x, reduce_log_det(log_det, y, event_ndims, min_ndims)

    def inverse_within(
        self, y: Any, event_ndims: int, context: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """As `inverse_and_log_det`, and for each event whether it has a latent.

        Where there is none, the latent and the log-det are those of other data, and have no
        gradient. Bijectors of bounded data, and containers of them, override it.

        Returns:
          `(x, log_det, inside)`; `inside` is None if all data have latents.
        """
        return *self.inverse_and_log_det(y, event_ndims, context), None

    def diagnostics(self, y: tf.Tensor, context: Context = None) -> dict[str, tf.Tensor]:
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

    def layers(self, path: str) -> list[tuple[str, tfb.Bijector]]:
        """The layers from data to latent, each with what its variables' paths begin with.

        A container returns those of its parts; any other bijector is one layer. In a `Repeat`, the
        paths of layers of step `i` end in `[i]`.

        Args:
          path: that of this bijector, such as `"bijector"` in a flow.
        """
        return [(path, self)]

    def visit_layers(
        self, y: tf.Tensor, context: Context, measure: Measure, found: list
    ) -> tf.Tensor:
        """Takes data to latents, and appends to `found` what is measured of each of the `layers`.

        Args:
          y: data, `[n, *event]`.
          context: as for `inverse_and_log_det`.
          measure: a function `(layer, y, context) -> (latents, measures)`, which `Repeat` calls in
            a graph that it keeps for the next visit with the same function.
          found: a list, which tells how far the walk came where a layer raises an error.

        Returns:
          The latents of `y`.
        """
        x, measures = measure(self, y, context)
        found.append(measures)
        return x

    def _flat_evaluation(self, value: tf.Tensor, context: Context, forward: bool) -> Pair:
        """Evaluates a tensor of unknown rank with one batch dimension."""
        ndims = self.forward_min_event_ndims if forward else self.inverse_min_event_ndims
        evaluate = self._forward_and_log_det if forward else self._inverse_and_log_det
        flat, batch = flat_batch(value, [None] * ndims, self.name)
        if context is not None:
            context = spread(context, batch, [context.shape[-1]])
        out, log_det = evaluate(flat, context)
        return restored(out, batch), restored(log_det, batch) if log_det.shape.rank else log_det

    def _check_argument(self, tensor: Any, event_ndims: int, direction: str) -> tf.Tensor:
        """The argument as a tensor; raises TypeError or ValueError if it does not fit."""
        if type(tensor).__name__ == "KerasTensor":
            raise TypeError(
                f"{self.name}.{direction} takes tensors, got a symbolic KerasTensor. Flows are "
                "trained by flows.FlowModel; inside another Keras model, call the bijector in the "
                "`call` of a layer of your own."
            )
        tensor = tf.convert_to_tensor(tensor)
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
        return tensor

    def _checked_context(self, context: Any, dtype: tf.DType) -> Context:
        """The context as a tensor, from an array, a list or a variable; integers stay integers."""
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

    # TFP's own methods.

    @property
    def _cache(self) -> Memo:
        # Where TFP's methods get all values and log-dets from.
        return self._memo

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        # TFP's containers key their caches by the hash of their parts. With this one they find
        # nothing but what the memo would answer; in eager mode it is another one at every call.
        return hash((id(self), self._memo.key()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._describe()})"

    __str__ = __repr__

    def _describe(self) -> str:
        """The arguments that `repr` shows."""
        return ""


class Delegating(FlowBijector):
    """A `FlowBijector` with the ranks, shapes and dtypes of a bijector of TFP.

    Args:
      shapes: that bijector; only its shapes are used here, never its values.
      parameters, name: as for `FlowBijector`.
    """

    _TF_MODULE_IGNORED_PROPERTIES = FlowBijector._TF_MODULE_IGNORED_PROPERTIES | {"_shapes"}

    def __init__(self, *, shapes: tfb.Bijector, parameters: dict[str, Any], name: str):
        super().__init__(
            forward_min_event_ndims=shapes.forward_min_event_ndims,
            inverse_min_event_ndims=shapes.inverse_min_event_ndims,
            is_constant_jacobian=shapes.is_constant_jacobian,
            parameters=parameters,
            name=name,
        )
        self._shapes = shapes

    def _forward_event_shape(self, shape):
        return self._shapes.forward_event_shape(shape)

    def _forward_event_shape_tensor(self, shape):
        return self._shapes.forward_event_shape_tensor(shape)

    def _inverse_event_shape(self, shape):
        return self._shapes.inverse_event_shape(shape)

    def _inverse_event_shape_tensor(self, shape):
        return self._shapes.inverse_event_shape_tensor(shape)

    def _forward_dtype(self, dtype, **kwargs):
        return self._shapes.forward_dtype(dtype)

    def _inverse_dtype(self, dtype, **kwargs):
        return self._shapes.inverse_dtype(dtype)

    def _batch_shape(self, x_event_ndims):
        return self._shapes.experimental_batch_shape(x_event_ndims=x_event_ndims)

    def _batch_shape_tensor(self, x_event_ndims):
        return self._shapes.experimental_batch_shape_tensor(x_event_ndims=x_event_ndims)


def init_states_in(modules: Iterable[tf.Module]) -> Iterator[InitState]:
    """The states of data-dependent initialisation of the bijectors among `modules`."""
    return (state for m in modules if isinstance(m, FlowBijector) for state in m._init_states())


def reduce_log_det(
    log_det: tf.Tensor, tensor: tf.Tensor, event_ndims: int | None, min_event_ndims: int
) -> tf.Tensor:
    """Sums a log-det over the event dimensions beyond the minimum; none are if it is None."""
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


class InitState(NamedTuple):
    """Whether a data-dependent layer is initialised: its flag is set, or it has left its start.

    Attributes:
      flag: a boolean variable; that of stacked layers is `[count]`.
      zeros: variables that are 0 until the layer is initialised, trained, assigned or loaded; those
        of stacked layers begin with the dimensions of the flag.
    """

    flag: tf.Variable
    zeros: tuple[tf.Variable, ...]

    def is_pending(self) -> bool:
        """Whether the layer, or one of a stack, is not initialised."""
        done = self.flag.numpy()
        for variable in self.zeros:
            moved = variable.numpy() != 0.0
            done = done | np.any(moved, axis=tuple(range(done.ndim, moved.ndim)))
        return not np.all(done)

    def is_done(self) -> tf.Tensor:
        """Whether a single layer is initialised, as a boolean tensor; in graphs too."""
        return tf.reduce_any([self.flag, *(tf.reduce_any(v != 0.0) for v in self.zeros)])
