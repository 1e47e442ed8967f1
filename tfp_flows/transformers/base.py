"""The base class of transformers, and the layout of their parameters."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class Transformer(tf.Module):
    r"""An increasing element-wise map whose parameters a conditioner computes.

    $$ y_i = f(x_i; \theta_i), \qquad \text{log-slope}_i = \log f'(x_i; \theta_i) $$

    A subclass sets `num_params` and implements `forward` (latent -> data) and `inverse`; then
    `Coupling` and `MaskedAutoregressive` take it. Where all parameters are 0 it should be close to
    the identity, since conditioners start there. Register the class with Keras
    (`@keras.saving.register_keras_serializable()`) to save whole models.

    Entries `x` of shape `[..., n]` go with parameters of shape `[..., num_params, n]`. So the last
    axis of a conditioner's output, of size `num_params * n`, holds the first parameter of all
    entries, then the second parameter of all entries, and so on.

    Attributes:
      num_params: parameters of one entry.

    Args:
      parameters: the constructor's arguments, as `dict(locals())`; files rebuild it from them.

    Example:
      >>> class PositiveScale(Transformer):
      ...     "Scales positive entries, and leaves the others as they are."
      ...
      ...     num_params = 1
      ...
      ...     def forward(self, x, params):
      ...         log_slope = tf.where(x > 0, params[..., 0, :], 0.0)
      ...         return x * tf.exp(log_slope), log_slope
      ...
      ...     def inverse(self, y, params):
      ...         log_slope = tf.where(y > 0, -params[..., 0, :], 0.0)
      ...         return y * tf.exp(log_slope), log_slope
      >>> y, log_slope = PositiveScale().forward(tf.constant([-1.0, 1.0]), tf.ones([1, 2]))
      >>> log_slope.numpy()
      array([0., 1.], dtype=float32)
    """

    num_params: int

    _TF_MODULE_IGNORED_PROPERTIES = tf.Module._TF_MODULE_IGNORED_PROPERTIES | {"_parameters"}

    def __init__(self, parameters: dict[str, Any] | None = None):
        super().__init__()
        self._parameters = {
            name: value
            for name, value in (parameters or {}).items()
            if name != "self" and not name.startswith("__")
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self._parameters)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; Keras registers only classes with this method."""
        return self.parameters

    def forward(self, x: tf.Tensor, params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Latent -> data.

        Args:
          x: `[..., n]`.
          params: `[..., num_params, n]`.

        Returns:
          `y` and the log of the slope `dy/dx`, both `[..., n]`.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def inverse(self, y: tf.Tensor, params: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data -> latent: `x` and the log of the slope `dx/dy`; see `forward`."""
        raise NotImplementedError(f"{type(self).__name__}.inverse")

    def encode(self, x: tf.Tensor) -> tf.Tensor:
        """What a conditioner is given for the entries `x`, `[..., n] -> [..., k * n]`."""
        return x

    def diagnostics(self, params: tf.Tensor, used: tf.Tensor) -> dict[str, tf.Tensor]:
        """Measures of parameters that show whether training goes well, for `FlowHealth`.

        Args:
          params: `[..., num_params, n]`.
          used: `[..., n]`, 1 where an entry is transformed and 0 elsewhere.
        """
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._describe()})"

    def _describe(self) -> str:
        """The arguments worth reading in a `repr`."""
        return ", ".join(f"{name}={value!r}" for name, value in self._parameters.items())


def split_params(output: tf.Tensor, num_params: int, n: int) -> tf.Tensor:
    """A conditioner's output `[..., num_params * n]` as parameters `[..., num_params, n]`."""
    shape = output.shape[:-1] + [num_params, n]
    if not shape.is_fully_defined():
        shape = tf.concat([tf.shape(output)[:-1], [num_params, n]], 0)
    return tf.reshape(output, shape)


def as_rows(params: tf.Tensor) -> tf.Tensor:
    """Parameters `[..., num_params, n]` as `[num_params, entries]`, in the order of the entries.

    Each row is a whole vector, so that sums over parameters are additions of vectors.
    """
    num_params, n = params.shape[-2:]
    batched = tf.reshape(params, [-1, num_params, n])
    return tf.reshape(tf.transpose(batched, [1, 0, 2]), [num_params, -1])
