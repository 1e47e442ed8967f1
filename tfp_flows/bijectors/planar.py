"""Planar and radial flows, and the amortised parameters that they share with Sylvester flows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.bijector import Context, Pair
from tfp_flows.core.random_values import random_state
from tfp_flows.core.shapes import check_event_shape
from tfp_flows.solvers.root import above_minus_one, slope_at, tanh_root


class Amortized(FlowBijector):
    """A bijector of vectors whose parameters are one variable, plus the output of a network.

    Without a conditioner all examples have the same parameters. With one, each example has its
    own, which depend on its context: amortised variational inference.

    Args:
      features: size of a vector.
      conditioner: network from contexts, `[n, width]`, to changes of the parameters,
        `[n, num_params]`; None: no context is read.
      seed: of the initial parameters; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      params: the variable to use in place of a new one.
      name: name of the bijector.
      **settings: further arguments of the subclass's constructor.
    """

    def __init__(
        self,
        features: int,
        conditioner: Any,
        seed: int | None,
        dtype: tf.DType,
        params: tf.Variable | None,
        name: str,
        **settings: Any,
    ):
        if features < 1:
            raise ValueError(f"features must be 1 or more, got {features}.")
        self._features = int(features)
        self._seed = seed
        if params is None:
            params = tf.Variable(
                self._initial_params(random_state(seed)), dtype=dtype, name="params"
            )
        self.params = params
        super().__init__(
            forward_min_event_ndims=1,
            parameters={
                "features": features,
                "conditioner": conditioner,
                "seed": seed,
                "dtype": dtype,
                "params": params,
                "name": name,
                **settings,
            },
            name=name,
        )
        self._network = None
        if conditioner is not None:
            self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as given; None if there is none."""
        return self._network and self._network.net

    def _initial_params(self, random: np.random.RandomState) -> np.ndarray:
        raise NotImplementedError

    def _reinitialised(self, index: int) -> list[tuple[tf.Variable, np.ndarray]]:
        return [(self.params, self._initial_params(random_state(self._seed, index)))]

    def _params_of(self, value: tf.Tensor, context: Context, *sizes: int) -> list[tf.Tensor]:
        """The parameters for `value`, split: `[size]` each, or `[..., size]` with a conditioner."""
        check_event_shape(self.name, [self._features], value)
        params = tf.cast(self.params, value.dtype)
        if self._network is None:
            return tf.split(params, sizes)
        if context is None:
            raise ValueError(f"{self.name} has a conditioner: it needs a context, and got none.")
        context = tf.cast(context, value.dtype)
        if not 1 <= context.shape.rank <= value.shape.rank:
            raise ValueError(
                f"{self.name} takes a context of shape [..., width], with batch dimensions that "
                f"broadcast to those of the examples: got {context.shape} for {value.shape}."
            )
        change = self._network(context, 1, self.params.shape[0])
        return tf.split(params + change, sizes, axis=-1)

    def _describe(self) -> str:
        network = "" if self._network is None else f", {self._network!r}"
        return f"{self._features}{network}"


class Planar(Amortized):
    r"""Moves vectors along one direction, by an amount that depends on another direction.

    $$ y = x + \hat u \tanh(w \cdot x + b), \qquad
       \log|\det J| = \log\big(1 + w \cdot \hat u \, (1 - \tanh^2(w \cdot x + b))\big) $$

    `forward` is explicit, so samples and their densities are cheap, as variational inference
    needs. `inverse` solves one scalar equation per example, `a + (w . u) tanh(a) = w . y + b` for
    `a = w . x + b`. It has exactly one solution, because

    $$ \hat u = u + \big(m(w \cdot u) - w \cdot u\big) w / |w|^2 $$

    makes `w . u` larger than -1: `m` maps to numbers above -0.999, and 0 to 0. The layer starts as
    the identity: `u` and `b` are 0, `w` is random.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770, and its appendix A.1,
    where `m` is larger than -1 and not 0 at 0.

    Args:
      features: size of a vector.
      conditioner: a Keras layer, `tf.Module` or function from contexts `[n, k]` to changes of the
        parameters, `[n, 2 * features + 1]`, in the order of `params`: every example then has its
        own parameters. None: no context is read.
      seed: of `w`; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      params: variable `[w, u, b]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: if `features < 1`; on a call, if vectors have another size, if a context is
        missing, or if the conditioner's output has another width.

    Example:
      >>> planar = Planar(2, params=tf.Variable([1.0, 0.0, 0.0, 3.0, 0.0]))
      >>> planar.forward([[0.0, 1.0], [9.0, 1.0]]).numpy()
      array([[0., 1.],
             [9., 4.]], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        conditioner: Any = None,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        params: tf.Variable | None = None,
        name: str = "planar",
    ):
        super().__init__(features, conditioner, seed, dtype, params, name)

    def _initial_params(self, random: np.random.RandomState) -> np.ndarray:
        w = random.normal(size=self._features) / np.sqrt(self._features)
        return np.concatenate([w, np.zeros(self._features + 1)])

    def _constrained(self, value: tf.Tensor, context: Context) -> tuple:
        """`w`, the constrained `u`, their product, and `b`."""
        w, u, b = self._params_of(value, context, self._features, self._features, 1)
        product = _dot(w, u)
        allowed = above_minus_one(product)
        square = tf.maximum(_dot(w, w), 1e-12)
        u += ((allowed - product) / square)[..., tf.newaxis] * w
        return w, u, allowed, b[..., 0]

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        w, u, product, b = self._constrained(x, context)
        tanh = tf.tanh(_dot(x, w) + b)
        return x + u * tanh[..., tf.newaxis], tf.math.log(slope_at(tanh, product))

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        w, u, product, b = self._constrained(y, context)
        tanh = tf.tanh(tanh_root(_dot(y, w) + b, product))
        return y - u * tanh[..., tf.newaxis], -tf.math.log(slope_at(tanh, product))


class Radial(Amortized):
    r"""Moves vectors towards a centre or away from it, more so the closer they are.

    $$ y = x + \frac{\beta}{\alpha + r} (x - c), \quad r = |x - c|, \qquad
       \log|\det J| = (d - 1) \log\Big(1 + \frac{\beta}{\alpha + r}\Big)
       + \log\Big(1 + \frac{\alpha \beta}{(\alpha + r)^2}\Big) $$

    Both directions are explicit: the radius of `x` is the root of a quadratic equation in that of
    `y`. The layer is invertible because `alpha = softplus(a) > 0` and `beta = alpha m(b) > -alpha`,
    where `m` maps to numbers above -0.999, and 0 to 0. It starts as the identity, with `beta = 0`
    and a random centre.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770, and its appendix A.2.

    Args:
      features: size of a vector, `d`.
      conditioner: a Keras layer, `tf.Module` or function from contexts `[n, k]` to changes of the
        parameters, `[n, features + 2]`, in the order of `params`: every example then has its own
        parameters. None: no context is read.
      seed: of the centre; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      params: variable `[c, a, b]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: if `features < 1`; on a call, if vectors have another size, if a context is
        missing, or if the conditioner's output has another width.

    Example:
      >>> radial = Radial(2, params=tf.Variable([0.0, 0.0, 0.0, -50.0]))
      >>> radial.forward([[0.0, 0.0], [0.0, 100.0]]).numpy().round(1)
      array([[ 0. ,  0. ],
             [ 0. , 99.3]], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        conditioner: Any = None,
        seed: int | None = None,
        dtype: tf.DType = tf.float32,
        params: tf.Variable | None = None,
        name: str = "radial",
    ):
        super().__init__(features, conditioner, seed, dtype, params, name)

    def _initial_params(self, random: np.random.RandomState) -> np.ndarray:
        return np.concatenate([random.normal(size=self._features), np.zeros(2)])

    def _constrained(self, value: tf.Tensor, context: Context) -> tuple:
        """The centre, `alpha` and `beta`."""
        centre, a, b = self._params_of(value, context, self._features, 1, 1)
        alpha = tf.math.softplus(a[..., 0])
        return centre, alpha, alpha * above_minus_one(b[..., 0])

    def _forward_and_log_det(self, x: tf.Tensor, context: Context) -> Pair:
        centre, alpha, beta = self._constrained(x, context)
        stretch, log_det = self._stretch(_length(x - centre), alpha, beta)
        return centre + (x - centre) * stretch[..., tf.newaxis], log_det

    def _inverse_and_log_det(self, y: tf.Tensor, context: Context) -> Pair:
        centre, alpha, beta = self._constrained(y, context)
        radius = _length(y - centre)
        # The root r >= 0 of r^2 + p r = alpha * radius, without a difference of close numbers.
        p = alpha + beta - radius
        root = tf.sqrt(tf.square(p) + 4 * alpha * radius)
        total = tf.where(p > 0, p + root, 1)
        r = tf.where(p > 0, 2 * alpha * radius / total, 0.5 * (root - p))
        stretch, log_det = self._stretch(r, alpha, beta)
        return centre + (y - centre) / stretch[..., tf.newaxis], -log_det

    def _stretch(self, r: tf.Tensor, alpha: tf.Tensor, beta: tf.Tensor) -> Pair:
        """The factor by which a vector of length `r` grows, and the log-det."""
        reach = alpha + r
        stretch = 1 + beta / reach
        along = 1 + alpha * beta / tf.square(reach)
        return stretch, (self._features - 1) * tf.math.log(stretch) + tf.math.log(along)


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Scalar products of vectors."""
    return tf.reduce_sum(a * b, axis=-1)


def _length(vectors: tf.Tensor) -> tf.Tensor:
    """Euclidean norms, with gradient 0 at 0."""
    squares = _dot(vectors, vectors)
    positive = squares > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squares, 1)), squares)
