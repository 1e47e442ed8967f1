"""Class labels as vectors, for conditional flows."""

from __future__ import annotations

from typing import Any

from tfp_flows.keras_engine import keras


@keras.saving.register_keras_serializable(package="tfp_flows")
class LabelEmbedding(keras.layers.Embedding):
    """`keras.layers.Embedding` that has its vectors from the start: `[...] -> [..., width]`.

    Args:
      input_dim: how many classes; labels are `0 ... input_dim - 1`.
      output_dim: width of a class's vector.
      embeddings_initializer: standard normal, if not given, so that classes differ at once.
      **kwargs: as for any Keras layer.

    Example:
      >>> LabelEmbedding(10, 4)(np.array([0, 9])).shape
      TensorShape([2, 4])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "standard_normal",
        **kwargs,
    ):
        if embeddings_initializer == "standard_normal":
            embeddings_initializer = keras.initializers.RandomNormal(stddev=1.0)
        super().__init__(input_dim, output_dim, embeddings_initializer, **kwargs)
        self.build((None,))

    def build(self, input_shape=None):
        if not self.built:
            super().build(input_shape)
