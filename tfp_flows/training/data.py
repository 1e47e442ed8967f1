"""What goes into `fit` and `evaluate`: checked at the door, so that faults are named early."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_flows.distributions import Dequantized
from tfp_flows.initialization import count_bad_rows

tfd = tfp.distributions

INIT_EXAMPLES = 256  # as many as Glow takes


def check_batch(x: Any, flow: tfd.Distribution) -> None:
    """Checks an array of examples.

    Raises:
      TypeError: integers for a continuous distribution.
      ValueError: wrong event shape, NaN or infinity, or pixels outside the levels.
    """
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
        flow.check_pixels(tf.convert_to_tensor(x))
        return
    if flow.dtype.is_floating and not np.issubdtype(x.dtype, np.floating):
        raise TypeError(
            f"{flow.name} is a density over continuous values, got {x.dtype}. Wrap integer pixels: "
            "flows.Dequantized(flow, levels=...); cast what is continuous to float."
        )
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        bad = int(count_bad_rows(tf.convert_to_tensor(x)))
        if bad:
            raise ValueError(
                f"{bad} of {len(x)} rows hold NaN or infinity. Remove them, or fill the gaps: one "
                "such row would make every weight NaN."
            )


def check_weight(weight: Any) -> None:
    """Raises ValueError unless every sample weight is finite and 0 or more."""
    weight = np.asarray(weight)
    bad = int((~np.isfinite(weight) | (weight < 0)).sum())
    if bad:
        raise ValueError(f"{bad} of {weight.size} sample weights are negative, NaN or infinite.")


def checked(x: Any, flow: tfd.Distribution) -> Any:
    """Returns `x` after the checks, or for a `tf.data.Dataset` with the checks built in."""
    if x is None or isinstance(x, dict):
        raise TypeError(
            f"x must be an array of shape (n, *event_shape), a tf.data.Dataset or a generator of "
            f"batches, got {type(x).__name__}."
        )
    if isinstance(x, tf.data.Dataset):
        spec = examples_of(x.element_spec)
        if not isinstance(spec, tf.TensorSpec):
            raise TypeError(f"The data set must give x, (x, y) or (x, y, weight), got {spec}.")
        if spec.shape.rank is not None and not spec.shape[1:].is_compatible_with(flow.event_shape):
            raise ValueError(
                f"The flow models events of shape {tuple(flow.event_shape)}; the data set gives "
                f"batches of shape {spec.shape}. Batch it, and give it the event's shape."
            )
        return x.map(lambda *parts: _check_in_graph(parts, flow))
    if is_array(x):
        x = np.asarray(x)
        check_batch(x, flow)
        if len(x) == 0:
            raise ValueError("x holds no examples.")
    return x


def is_array(x: Any) -> bool:
    """Whether `x` is an array or a tensor, and no data set or generator."""
    return isinstance(x, np.ndarray | list) or tf.is_tensor(x) or hasattr(x, "__array__")


def examples_of(batch: Any) -> Any:
    """The examples in `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
    return batch[0] if isinstance(batch, tuple | list) else batch


def first_batch(x: Any) -> Any:
    """Examples for the data-dependent initialisation.

    Of an array, 256 rows spread evenly over it, since it may be sorted; of a data set, the
    first batch.

    Raises:
      ValueError: looking would use up a generator.
    """
    if is_array(x):
        x = np.asarray(x)
        rows = np.linspace(0, len(x) - 1, min(len(x), INIT_EXAMPLES)).astype(int)
        return x[rows]
    if isinstance(x, tf.data.Dataset):
        return examples_of(next(iter(x)))
    if hasattr(x, "__getitem__"):  # keras.utils.PyDataset / Sequence
        return examples_of(x[0])
    raise ValueError(
        "The flow needs data-dependent initialisation, and looking into a generator would use it "
        "up: call flows.initialize(flow, batch) before fit."
    )


def _check_in_graph(parts: tuple, flow: tfd.Distribution):
    x = parts[0]
    if x.dtype.is_floating:
        bad = count_bad_rows(x)
        check = tf.debugging.Assert(
            tf.equal(bad, 0),
            ["rows of a batch that hold NaN or infinity:", bad, "of", tf.shape(x)[0]],
        )
        with tf.control_dependencies([check]):
            x = tf.identity(x)
    if isinstance(flow, Dequantized):
        with tf.control_dependencies(flow.check_pixels(x)):
            x = tf.identity(x)
    elif flow.dtype.is_floating and not x.dtype.is_floating:
        raise TypeError(
            f"{flow.name} is a density over continuous values, the data set gives "
            f"{x.dtype.name}. Wrap integer pixels: flows.Dequantized(flow, levels=...)."
        )
    return (x, *parts[1:]) if len(parts) > 1 else x
