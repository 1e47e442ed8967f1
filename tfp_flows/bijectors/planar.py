"""Planar and radial flows, and the amortised parameters that they share with Sylvester flows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_flows.core import FlowBijector, Network
from tfp_flows.core.random_values import random_state
from tfp_flows.solvers.root import above_minus_one, slope_at, tanh_root


class Amortized(FlowBijector):
    """A bijector of vectors: all its numbers are one variable, plus what a network adds to it.

    Without a conditioner every example has the same parameters. With one, the context of each
    example chooses its own: amortised variational inference.

    Args:
      features: size of a vector.
      conditioner: network from contexts, `[n, width]`, to changes of the numbers, `[n, numbers]`;
        None: no context is read.
      seed: of the start; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      params: the variable to use in place of a new one.
      parameters: as of `FlowBijector`.
      name: name of the bijector.
    """

    def __init__(self, features, conditioner, seed, dtype, params, parameters, name):
        if features < 1:
            raise ValueError(f"features must be 1 or more, got {features}.")
        self._features = int(features)
        self._seed = seed
        if params is None:
            params = tf.Variable(self._start(random_state(seed)), dtype=dtype, name="params")
        self.params = params
        super().__init__(
            forward_min_event_ndims=1,
            parameters={**parameters, "params": params},
            name=name,
        )
        self._network = None
        if conditioner is not None:
            self._network = Network(conditioner, name=f"{name}_conditioner")

    @property
    def conditioner(self) -> Any:
        """The network, as it was given; None if there is none."""
        return self._network and self._network.net

    def _start(self, random: np.random.RandomState) -> np.ndarray:
        """The numbers to start from."""
        raise NotImplementedError

    def _reinitialised(self, turn):
        return [(self.params, self._start(random_state(self._seed, turn)))]

    def _numbers(self, value: tf.Tensor, context) -> tf.Tensor:
        """The numbers for each example of `value`: `[numbers]`, or `[..., numbers]`."""
        if value.shape[-1] != self._features:
            raise ValueError(
                f"{self.name} was made for {self._features} feature(s), got a tensor of shape "
                f"{value.shape}."
            )
        params = tf.cast(self.params, value.dtype)
        if self._network is None:
            return params
        if context is None:
            raise ValueError(f"{self.name} has a conditioner: it needs a context, and got none.")
        context = tf.cast(context, value.dtype)
        if not 1 <= context.shape.rank <= value.shape.rank:
            raise ValueError(
                f"{self.name} takes a context of shape [..., width], with batch dimensions that "
                f"broadcast to those of the examples: got {context.shape} for {value.shape}."
            )
        return params + self._network(context, 1, params.shape[0])

    def _describe(self):
        given = "" if self._network is None else f", {self._network!r}"
        return f"{self._features}{given}"


def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Scalar products of vectors."""
    return tf.reduce_sum(a * b, axis=-1)


def parts(numbers: tf.Tensor, *sizes: int) -> list[tf.Tensor]:
    """Cuts the last dimension into parts of these sizes."""
    return tf.split(numbers, sizes, axis=-1)


class Planar(Amortized):
    r"""Pushes a vector along one direction, as far as its place along another one says.

    $$ y = x + \hat u \tanh(w \cdot x + b), \qquad
       \log|\det J| = \log\big(1 + w \cdot \hat u \, (1 - \tanh^2(w \cdot x + b))\big) $$

    From latent to data it is explicit, and samples with their densities are cheap: made for
    variational inference. The way back solves one scalar equation for each example,
    `a + (w . u) tanh(a) = w . y + b` for `a = w . x + b`. It always has one solution, because

    $$ \hat u = u + \big(m(w \cdot u) - w \cdot u\big) w / |w|^2 $$

    makes `w . u` larger than -1: `m` maps to numbers above -0.999, and 0 to 0. It starts as the
    identity: `u` and `b` are 0, `w` is random.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770, and its appendix A.1,
    where `m` is larger than -1 and not 0 at 0.

    Args:
      features: size of a vector.
      conditioner: a Keras layer, `tf.Module` or function from contexts `[n, k]` to changes of the
        parameters, `[n, 2 * features + 1]`, in the order of `params`. Every example then has
        parameters of its own. None: no context is read.
      seed: of `w`; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      params: variable `[w, u, b]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: on a call, vectors of another size; a missing context; or a conditioner's output
        of the wrong width.

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
        parameters = dict(locals())
        super().__init__(features, conditioner, seed, dtype, params, parameters, name)

    def _start(self, random):
        w = random.normal(size=self._features) / np.sqrt(self._features)
        return np.concatenate([w, np.zeros(self._features + 1)])

    def _bend(self, value, context):
        """`w`, the direction to push in, their product, and `b`."""
        w, u, b = parts(self._numbers(value, context), self._features, self._features, 1)
        product = dot(w, u)
        allowed = above_minus_one(product)
        square = tf.maximum(dot(w, w), 1e-12)
        u += ((allowed - product) / square)[..., tf.newaxis] * w
        return w, u, allowed, b[..., 0]

    def _forward_and_log_det(self, x, context):
        w, u, product, b = self._bend(x, context)
        tanh = tf.tanh(dot(x, w) + b)
        return x + u * tanh[..., tf.newaxis], tf.math.log(slope_at(tanh, product))

    def _inverse_and_log_det(self, y, context):
        w, u, product, b = self._bend(y, context)
        tanh = tf.tanh(tanh_root(dot(y, w) + b, product))
        return y - u * tanh[..., tf.newaxis], -tf.math.log(slope_at(tanh, product))


class Radial(Amortized):
    r"""Moves a vector towards a centre or away from it, the more the nearer it is.

    $$ y = x + \frac{\beta}{\alpha + r} (x - c), \quad r = |x - c|, \qquad
       \log|\det J| = (d - 1) \log\Big(1 + \frac{\beta}{\alpha + r}\Big)
       + \log\Big(1 + \frac{\alpha \beta}{(\alpha + r)^2}\Big) $$

    Both directions are explicit: the radius before follows from the radius after by a quadratic
    equation. It is invertible because `alpha = softplus(.)` is above 0 and `beta = alpha m(.)`
    above `-alpha`: `m` maps to numbers above -0.999, and 0 to 0. It starts as the identity, with
    `beta = 0` and a random centre.

    Source: Variational Inference with Normalizing Flows, arXiv 1505.05770, and its appendix A.2.

    Args:
      features: size of a vector.
      conditioner: as for `Planar`, with `features + 2` outputs.
      seed: of the centre; from TensorFlow's global generator if None.
      dtype: of the variable; it is cast to that of the input.
      params: variable `[c, a, b]` to use in place of a new one.
      name: name of the bijector.

    Raises:
      ValueError: as for `Planar`.

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
        parameters = dict(locals())
        super().__init__(features, conditioner, seed, dtype, params, parameters, name)

    def _start(self, random):
        return np.concatenate([random.normal(size=self._features), np.zeros(2)])

    def _pull(self, value, context):
        """The centre, `alpha` and `beta`."""
        centre, alpha, beta = parts(self._numbers(value, context), self._features, 1, 1)
        alpha = tf.math.softplus(alpha[..., 0])
        return centre, alpha, alpha * above_minus_one(beta[..., 0])

    def _forward_and_log_det(self, x, context):
        centre, alpha, beta = self._pull(x, context)
        stretch, log_det = self._stretch(_length(x - centre), alpha, beta)
        return centre + (x - centre) * stretch[..., tf.newaxis], log_det

    def _inverse_and_log_det(self, y, context):
        centre, alpha, beta = self._pull(y, context)
        after = _length(y - centre)
        # The root of 0 or more of r^2 + p r = alpha * after, without a difference of near numbers.
        p = alpha + beta - after
        root = tf.sqrt(tf.square(p) + 4 * alpha * after)
        total = tf.where(p > 0, p + root, 1)
        before = tf.where(p > 0, 2 * alpha * after / total, 0.5 * (root - p))
        stretch, log_det = self._stretch(before, alpha, beta)
        return centre + (y - centre) / stretch[..., tf.newaxis], -log_det

    def _stretch(self, radius, alpha, beta):
        """By how much a vector of this radius grows, and the log-det."""
        reach = alpha + radius
        stretch = 1 + beta / reach
        along = 1 + alpha * beta / tf.square(reach)
        return stretch, (self._features - 1) * tf.math.log(stretch) + tf.math.log(along)


def _length(vectors: tf.Tensor) -> tf.Tensor:
    """Euclidean norms, with gradient 0 at 0."""
    squares = dot(vectors, vectors)
    positive = squares > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squares, 1)), squares)
