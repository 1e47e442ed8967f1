"""How finely a dtype can tell numbers apart."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def rounding_unit(dtype: tf.DType) -> float:
    """The distance from 1 to the next larger number, for bfloat16 too, which NumPy does not know.

    Example:
      >>> rounding_unit(tf.bfloat16), rounding_unit(tf.float16)
      (0.0078125, 0.0009765625)
    """
    return 2.0**-7 if dtype == tf.bfloat16 else float(np.finfo(dtype.as_numpy_dtype).eps)
