"""What goes into `fit` and `evaluate`: checked at the door, so that faults are named early."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions import Dequantized
from tfp_flows.distributions.data_checks import count_bad_rows
from tfp_flows.distributions.support import check_support, support_assertions
from tfp_flows.model.sample_weights import checked_weight_vector

tfd = tfp.distributions

INIT_EXAMPLES = 256  # as many as Glow takes


def is_conditional(flow: tfd.Distribution) -> bool:
    """Whether the flow takes a context, so that examples are pairs."""
    return getattr(flow, "context_shape", None) is not None


def named(examples: Any, flow: tfd.Distribution) -> Any:
    """Examples of a conditional flow as `{"x": ..., "context": ...}`; of another, as they are.

    Raises:
      TypeError: they are no such dict and no pair `(x, context)`.
    """
    if not is_conditional(flow):
        return examples
    if isinstance(examples, tuple | list) and len(examples) == 2:
        return {"x": examples[0], "context": examples[1]}
    if isinstance(examples, dict) and set(examples) == {"x", "context"}:
        return dict(examples)
    found = f"keys {sorted(examples)}" if isinstance(examples, dict) else type(examples).__name__
    raise TypeError(
        f"{flow.name} is conditional: give (x, context) or {{'x': ..., 'context': ...}}, got "
        f"{found}."
    )


def split(batch: Any, flow: tfd.Distribution) -> tuple[Any, tuple]:
    """Takes a batch, as data sets give them, apart: the examples, and `(y, weight)` if any.

    For a conditional flow `(x, context)` is a batch as well as `((x, context), y)` is.
    """
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if is_conditional(flow) and not isinstance(parts[0], tuple | list | dict):
        return named(parts[:2], flow), parts[1:]  # a context stands where targets do
    return named(parts[0], flow), parts[1:]


def check_batch(examples: Any, flow: tfd.Distribution, for_loss: bool = True) -> None:
    """Checks arrays of examples, as `named` gives them.

    Args:
      examples: see `named`.
      flow: which they are for.
      for_loss: whether a mean of log-probabilities is wanted, which examples without density
        would make infinite.

    Raises:
      TypeError: integers for a continuous distribution.
      ValueError: wrong event shape, NaN or infinity, or pixels outside the levels; a context of
        another shape, or not one for each example; if `for_loss`, examples without density.
    """
    x = examples["x"] if is_conditional(flow) else examples
    check_values(x, flow)
    if for_loss and not (tf.is_tensor(x) and not hasattr(x, "numpy")):
        check_support(x, flow)
    if not is_conditional(flow):
        return
    context = examples["context"]
    check_context(context, flow)
    if len(x) != len(context):
        raise ValueError(f"There are {len(x)} examples in x, and {len(context)} contexts.")


def check_context(context: Any, flow: tfd.Distribution) -> None:
    """Checks contexts, one for each example; see `check_batch`."""
    checked = flow.validated_context(context)
    if checked.shape.rank != 1 + len(flow.context_shape):
        raise ValueError(
            f"The flow takes one context of shape {flow.context_shape} for each example, got "
            f"{checked.shape}."
        )
    if checked.dtype.is_floating:
        _check_finite(np.asarray(checked), "contexts")


def _check_finite(array: np.ndarray, what: str) -> None:
    if np.isfinite(array).all():
        return
    bad = int(count_bad_rows(tf.convert_to_tensor(array)))
    raise ValueError(
        f"{bad} of {len(array)} {what} hold NaN or infinity. Remove these examples, or fill the "
        "gaps: one such row would make every weight NaN."
    )


def check_values(x: Any, flow: tfd.Distribution) -> None:
    """Checks examples without their contexts; see `check_batch`."""
    event = tuple(flow.event_shape)
    if tf.is_tensor(x) and not hasattr(x, "numpy"):  # inside a tf.function: shapes are all
        flow.event_shape.assert_is_compatible_with(x.shape[1:])
        return
    x = np.asarray(x)
    if x.ndim != len(event) + 1 or x.shape[1:] != event:
        raise ValueError(
            f"The flow models events of shape {event}, so x must have shape (n, "
            f"{', '.join(map(str, event))}); got {x.shape}."
        )
    if isinstance(flow, Dequantized):
        flow.validate_pixels(tf.convert_to_tensor(x))
        return
    if flow.dtype.is_floating and not np.issubdtype(x.dtype, np.floating):
        raise TypeError(
            f"{flow.name} is a density over continuous values, got {x.dtype}. Wrap integer pixels: "
            "flows.Dequantized(flow, levels=...); cast what is continuous to float."
        )
    if np.issubdtype(x.dtype, np.floating):
        _check_finite(x, "rows")


def validate_no_targets(y: Any, flow: tfd.Distribution, where: str) -> None:
    """Raises ValueError for arrays of targets, most often contexts or weights gone astray."""
    if y is None:
        return
    context = "A context goes with x: (x, context)."
    if not is_conditional(flow):
        context = "To condition on it, build the flow with context_shape= and give (x, context)."
    raise ValueError(
        f"{where} got targets (y), which a flow does not have. {context} Sample weights are given "
        "as sample_weight=, or third: (x, None, weights)."
    )


def checked(x: Any, flow: tfd.Distribution, for_loss: bool = True) -> Any:
    """Returns `x` after the checks, or for a `tf.data.Dataset` with the checks built in.

    `for_loss`: see `check_batch`.
    """
    if x is None or (isinstance(x, dict | tuple) and not is_conditional(flow)):
        raise TypeError(
            f"x must be an array of shape (n, *event_shape), a tf.data.Dataset or a generator of "
            f"batches, got {type(x).__name__}. Contexts, as in (x, context), are for flows that "
            "were built with context_shape=."
        )
    if isinstance(x, tf.data.Dataset):
        return _checked_dataset(x, flow, for_loss)
    if is_array(x) or (is_conditional(flow) and isinstance(x, tuple | dict)):
        x = named(x, flow)
        x = {k: np.asarray(v) for k, v in x.items()} if isinstance(x, dict) else np.asarray(x)
        check_batch(x, flow, for_loss)
        if rows(x) == 0:
            raise ValueError("x holds no examples.")
    return x


def check_elements(data: tf.data.Dataset, flow: tfd.Distribution) -> None:
    """Checks the shapes and dtypes of a data set, without reading it.

    Raises:
      TypeError: it gives other things than examples, or integers for a continuous distribution.
      ValueError: wrong event shape, or no batches.
    """
    examples, _ = split(data.element_spec, flow)
    spec = examples["x"] if is_conditional(flow) else examples
    if not isinstance(spec, tf.TensorSpec):
        raise TypeError(f"The data set must give x, (x, y) or (x, y, weight), got {spec}.")
    if spec.shape.rank is not None and not spec.shape[1:].is_compatible_with(flow.event_shape):
        raise ValueError(
            f"The flow models events of shape {tuple(flow.event_shape)}; the data set gives "
            f"batches of shape {spec.shape}. Batch it, and give it the event's shape."
        )
    if not isinstance(flow, Dequantized) and flow.dtype.is_floating and not spec.dtype.is_floating:
        raise TypeError(
            f"{flow.name} is a density over continuous values, the data set gives "
            f"{spec.dtype.name}. Wrap integer pixels: flows.Dequantized(flow, levels=...)."
        )


def _checked_dataset(
    data: tf.data.Dataset, flow: tfd.Distribution, for_loss: bool
) -> tf.data.Dataset:
    check_elements(data, flow)

    def check(*batch):
        # A data set gives the items of a tuple one by one, and all else as one argument.
        is_tuple = isinstance(data.element_spec, tuple)
        examples, rest = split(batch if is_tuple else batch[0], flow)
        examples = _check_in_graph(examples, flow, for_loss)
        if len(rest) > 1 and rest[1] is not None:
            rest = (rest[0], checked_weight_vector(rest[1], examples), *rest[2:])
        return (examples, *rest) if rest else examples

    return data.map(check)


def is_array(x: Any) -> bool:
    """Whether `x` is an array or a tensor, and no data set or generator."""
    return isinstance(x, np.ndarray | list) or tf.is_tensor(x) or hasattr(x, "__array__")


def rows(examples: Any) -> int:
    """How many examples there are."""
    return len(tf.nest.flatten(examples)[0])


def first_batch(x: Any, flow: tfd.Distribution) -> Any:
    """Examples for the data-dependent initialisation.

    Of an array, 256 rows spread evenly over it, since it may be sorted; of a data set, the
    first batch.

    Raises:
      ValueError: looking would use up a generator.
    """
    if is_array(x) or isinstance(x, dict):
        count = rows(x)
        places = np.linspace(0, count - 1, min(count, INIT_EXAMPLES)).astype(int)
        return tf.nest.map_structure(lambda a: np.asarray(a)[places], x)
    if isinstance(x, tf.data.Dataset):
        return split(next(iter(x)), flow)[0]
    if hasattr(x, "__getitem__"):  # keras.utils.PyDataset / Sequence
        return split(x[0], flow)[0]
    raise ValueError(
        "The flow needs data-dependent initialisation, and looking into a generator would use it "
        "up: call flows.initialize(flow, batch) before fit."
    )


def _check_in_graph(examples: Any, flow: tfd.Distribution, for_loss: bool) -> Any:
    if not is_conditional(flow):
        return _check_values_in_graph(examples, flow, for_loss)
    context = _finite(flow.validated_context(examples["context"]), "contexts")
    return {"x": _check_values_in_graph(examples["x"], flow, for_loss), "context": context}


def _finite(x: tf.Tensor, what: str) -> tf.Tensor:
    if not x.dtype.is_floating:
        return x
    bad = count_bad_rows(x)
    check = tf.debugging.Assert(
        tf.equal(bad, 0),
        [f"{what} of a batch that hold NaN or infinity:", bad, "of", tf.shape(x)[0]],
    )
    with tf.control_dependencies([check]):
        return tf.identity(x)


def _check_values_in_graph(x: tf.Tensor, flow: tfd.Distribution, for_loss: bool) -> tf.Tensor:
    x = _finite(x, "rows")
    checks = flow.validate_pixels(x) if isinstance(flow, Dequantized) else []
    if for_loss:
        checks = [*checks, *support_assertions(x, flow)]
    with tf.control_dependencies(checks):
        return tf.identity(x)


def example_context(flow: tfd.Distribution, n: int) -> dict[str, tf.Tensor]:
    """`{"context": ...}` to try a conditional flow with; `{}` for another."""
    if not is_conditional(flow):
        return {}
    shape, dtype = [n, *flow.context_shape], flow.context_dtype
    if dtype.is_integer:
        return {"context": tf.zeros(shape, dtype)}
    return {"context": tf.random.stateless_normal(shape, [0, 2], dtype=dtype)}
