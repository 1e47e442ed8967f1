"""Checks of what goes into `fit`, `evaluate` and `predict`, before any of it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions import Dequantized
from tfp_flows.distributions.data_checks import count_bad_rows
from tfp_flows.distributions.support import check_support, support_assertions
from tfp_flows.model.sample_weights import checked_weight_vector

tfd = tfp.distributions

Examples = dict[str, Any]  # {"x": ...}, with "context" for a conditional flow

INIT_EXAMPLES = 256  # as in Glow


def continuous_part(flow: tfd.Distribution) -> tfd.Distribution:
    """The distribution over continuous values: of `Dequantized` the inner one, else itself."""
    return flow.flow if isinstance(flow, Dequantized) else flow


def is_conditional(flow: tfd.Distribution) -> bool:
    """Whether the flow takes a context, so that examples are pairs."""
    return getattr(flow, "context_shape", None) is not None


def is_array(x: Any) -> bool:
    """Whether `x` is an array or a tensor, not a data set or generator."""
    return isinstance(x, np.ndarray | list) or tf.is_tensor(x) or hasattr(x, "__array__")


def in_memory(x: Any) -> bool:
    """Whether `x` holds arrays: the examples themselves, or a dict of them and their contexts."""
    return is_array(x) or isinstance(x, dict)


def rows(x: Any) -> int:
    """The number of examples in a nest of arrays."""
    return len(tf.nest.flatten(x)[0])


def named(x: Any, flow: tfd.Distribution) -> Examples:
    """Examples by name: `{"x": ...}`, or `{"x": ..., "context": ...}` for a conditional flow.

    Raises:
      TypeError: if the flow is conditional, and they are neither such a dict nor a pair.
    """
    if not is_conditional(flow):
        return {"x": x}
    if isinstance(x, tuple | list) and len(x) == 2:
        return {"x": x[0], "context": x[1]}
    if isinstance(x, dict) and set(x) == {"x", "context"}:
        return dict(x)
    found = f"keys {sorted(x)}" if isinstance(x, dict) else type(x).__name__
    raise TypeError(
        f"{flow.name} is conditional: give (x, context) or {{'x': ..., 'context': ...}}, got "
        f"{found}."
    )


def as_input(examples: Examples) -> Any:
    """Named examples as Keras takes them: the dict, or `x` alone if there is no context."""
    return examples if "context" in examples else examples["x"]


def split(batch: Any, flow: tfd.Distribution) -> tuple[Examples, tuple]:
    """Splits a batch of a data set into its examples and `(y, weight)`, as far as it has them.

    For a conditional flow both `(x, context)` and `((x, context), y)` are batches.
    """
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if is_conditional(flow) and not isinstance(parts[0], tuple | list | dict):
        return named(parts[:2], flow), parts[1:]  # the context takes the place of targets
    return named(parts[0], flow), parts[1:]


def checked(x: Any, flow: tfd.Distribution, for_loss: bool = True) -> Any:
    """Returns `x` after the checks; a `tf.data.Dataset` with the checks built in.

    Args:
      x: examples, in arrays or batch by batch. Generators are returned as they are.
      flow: the distribution that they are for.
      for_loss: whether to refuse examples that have no density.
    """
    if x is None or (isinstance(x, dict | tuple) and not is_conditional(flow)):
        raise TypeError(
            f"x must be an array of shape (n, *event_shape), a tf.data.Dataset or a generator of "
            f"batches, got {type(x).__name__}. Contexts, as in (x, context), are for flows that "
            "were built with context_shape=."
        )
    if isinstance(x, tf.data.Dataset):
        return _checked_dataset(x, flow, for_loss)
    if not (in_memory(x) or isinstance(x, tuple)):
        return x
    examples = {name: np.asarray(values) for name, values in named(x, flow).items()}
    check_examples(examples, flow, for_loss)
    if rows(examples) == 0:
        raise ValueError("x holds no examples.")
    return as_input(examples)


def check_examples(examples: Examples, flow: tfd.Distribution, for_loss: bool = True) -> None:
    """Checks arrays of examples.

    Args:
      examples: `x`, `[n, *event_shape]`, and the `context`, `[n, *context_shape]`, if any.
      flow: the distribution that they are for.
      for_loss: whether to refuse examples without density, whose mean loss would be infinite.

    Raises:
      TypeError: if they are integers and the distribution is continuous.
      ValueError: if they have another shape, hold NaN or infinity, or pixels outside the levels;
        if there is not one context for each example; with `for_loss`, if some have no density.
    """
    x = examples["x"]
    check_values(x, flow)
    if for_loss:
        check_support(x, flow)
    if "context" not in examples:
        return
    context = flow.validated_context(examples["context"])
    if context.shape.rank != 1 + len(flow.context_shape):
        raise ValueError(
            f"The flow takes one context of shape {flow.context_shape} for each example, got "
            f"{context.shape}."
        )
    check_finite(context, "contexts")
    if len(x) != len(context):
        raise ValueError(f"There are {len(x)} examples in x, and {len(context)} contexts.")


def check_values(x: Any, flow: tfd.Distribution) -> None:
    """Checks the shape, the dtype and the values of `x`; raises as `check_examples`."""
    event = tuple(flow.event_shape)
    if _is_symbolic(x):
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
    _validate_continuous(tf.as_dtype(x.dtype), flow)
    check_finite(x, "rows")


def _validate_continuous(dtype: tf.DType, flow: tfd.Distribution) -> None:
    if flow.dtype.is_floating and not dtype.is_floating:
        raise TypeError(
            f"{flow.name} is a density over continuous values, got {dtype.name}. Wrap integer "
            "pixels: flows.Dequantized(flow, levels=...); cast what is continuous to float."
        )


def check_finite(values: Any, what: str) -> None:
    """Raises ValueError for floating-point values that are NaN or infinite, counted by rows."""
    if _is_symbolic(values) or not tf.as_dtype(values.dtype).is_floating:
        return
    values = np.asarray(values)
    if np.isfinite(values).all():
        return
    bad = int(count_bad_rows(tf.convert_to_tensor(values)))
    raise ValueError(
        f"{bad} of {len(values)} {what} hold NaN or infinity. Remove these examples, or fill the "
        "gaps: one such row would make every weight NaN."
    )


def _is_symbolic(x: Any) -> bool:
    """Whether `x` is a tensor in a `tf.function`, of which only the shape is known."""
    return tf.is_tensor(x) and not hasattr(x, "numpy")


def validate_no_targets(y: Any, flow: tfd.Distribution, where: str) -> None:
    """Raises ValueError for targets, which are most often misplaced contexts or weights."""
    if y is None:
        return
    context = "A context goes with x: (x, context)."
    if not is_conditional(flow):
        context = "To condition on it, build the flow with context_shape= and give (x, context)."
    raise ValueError(
        f"{where} got targets (y), which a flow does not have. {context} Sample weights are given "
        "as sample_weight=, or third: (x, None, weights)."
    )


def check_elements(data: tf.data.Dataset, flow: tfd.Distribution) -> None:
    """Checks the shapes and dtypes of a data set, without reading it.

    Raises:
      TypeError: if its elements are not examples, or are integers for a continuous distribution.
      ValueError: if they have another event shape, or are not in batches.
    """
    spec = split(data.element_spec, flow)[0]["x"]
    if not isinstance(spec, tf.TensorSpec):
        raise TypeError(f"The data set must give x, (x, y) or (x, y, weight), got {spec}.")
    if spec.shape.rank is not None and not spec.shape[1:].is_compatible_with(flow.event_shape):
        raise ValueError(
            f"The flow models events of shape {tuple(flow.event_shape)}; the data set gives "
            f"batches of shape {spec.shape}. Batch it, and give it the event's shape."
        )
    if not isinstance(flow, Dequantized):
        _validate_continuous(spec.dtype, flow)


def map_batches(data: tf.data.Dataset, function: Any, flow: tfd.Distribution) -> tf.data.Dataset:
    """Maps `function(examples, rest)` over a data set whose batches `split` takes."""
    # A data set passes the items of a tuple one by one, and anything else as one argument.
    if isinstance(data.element_spec, tuple):
        return data.map(lambda *batch: function(*split(batch, flow)))
    return data.map(lambda batch: function(*split(batch, flow)))


def _checked_dataset(
    data: tf.data.Dataset, flow: tfd.Distribution, for_loss: bool
) -> tf.data.Dataset:
    check_elements(data, flow)

    def check(examples: Examples, rest: tuple) -> Any:
        x = asserted(examples["x"], _finite_assertions(examples["x"], "rows"))
        checks = flow.validate_pixels(x) if isinstance(flow, Dequantized) else []
        if for_loss:
            checks = [*checks, *support_assertions(x, flow)]
        found = {"x": asserted(x, checks)}
        if "context" in examples:
            context = flow.validated_context(examples["context"])
            found["context"] = asserted(context, _finite_assertions(context, "contexts"))
        if len(rest) > 1 and rest[1] is not None:
            rest = (rest[0], checked_weight_vector(rest[1], found["x"]), *rest[2:])
        return (as_input(found), *rest) if rest else as_input(found)

    return map_batches(data, check, flow)


def asserted(values: tf.Tensor, assertions: Sequence[tf.Operation]) -> tf.Tensor:
    """The values, once the assertions have run."""
    with tf.control_dependencies(assertions):
        return tf.identity(values)


def _finite_assertions(x: tf.Tensor, what: str) -> list[tf.Operation]:
    if not x.dtype.is_floating:
        return []
    bad = count_bad_rows(x)
    message = [f"{what} of a batch that hold NaN or infinity:", bad, "of", tf.shape(x)[0]]
    return [tf.debugging.Assert(tf.equal(bad, 0), message)]


def first_batch(x: Any, flow: tfd.Distribution) -> Examples:
    """Examples for the data-dependent initialisation.

    Args:
      x: examples as `checked` returns them. From arrays, which may be sorted, 256 rows are taken
        at equal distances; from a data set, the first batch.
      flow: the distribution that they are for.

    Raises:
      ValueError: if `x` is a generator, which reading would use up.
    """
    if in_memory(x):
        index = np.linspace(0, rows(x) - 1, min(rows(x), INIT_EXAMPLES)).astype(int)
        return {name: np.asarray(values)[index] for name, values in named(x, flow).items()}
    if isinstance(x, tf.data.Dataset):
        return split(next(iter(x)), flow)[0]
    if hasattr(x, "__getitem__"):  # keras.utils.PyDataset, Sequence
        return split(x[0], flow)[0]
    raise ValueError(
        "The flow needs data-dependent initialisation, and reading a generator would use it up: "
        "call flows.initialize(flow, batch) before fit."
    )


def example_context(flow: tfd.Distribution, n: int) -> dict[str, tf.Tensor]:
    """`{"context": ...}` with `n` contexts to try a conditional flow with; `{}` for another."""
    if not is_conditional(flow):
        return {}
    shape, dtype = [n, *flow.context_shape], flow.context_dtype
    if dtype.is_integer:
        return {"context": tf.zeros(shape, dtype)}
    return {"context": tf.random.stateless_normal(shape, [0, 2], dtype=dtype)}
