"""`check_bijector` finds planted faults, and nothing else."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows.checking import BijectorFault
from tfp_flows.core import FlowBijector

tfb = tfp.bijectors


class Sound(tfb.Bijector):
    """y = x * exp(tanh(w)) + b on vectors; each broken one below spoils one thing."""

    def __init__(self, name="subject"):
        super().__init__(forward_min_event_ndims=1, name=name, parameters=None)
        self.w = tf.Variable([0.1, 0.2, 0.3], name="w")
        self.b = tf.Variable([1.0, 2.0, 3.0], name="b")

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, x):
        return x * tf.exp(tf.tanh(self.w)) + self.b

    def _inverse(self, y):
        return (y - self.b) * tf.exp(-tf.tanh(self.w))

    def _forward_log_det_jacobian(self, x):
        return tf.fill(tf.shape(x)[:-1], tf.reduce_sum(tf.tanh(self.w)))

    def _inverse_log_det_jacobian(self, y):
        return -self._forward_log_det_jacobian(y)


class NoCache(Sound):
    """`Sound`, out of reach of TFP's stale cache: the only one that passes."""

    def _call_forward_log_det_jacobian(self, x, *args, **kwargs):
        return super()._call_forward_log_det_jacobian(tf.identity(x), *args, **kwargs)

    def _call_inverse_log_det_jacobian(self, y, *args, **kwargs):
        return super()._call_inverse_log_det_jacobian(tf.identity(y), *args, **kwargs)

    def _call_forward(self, x, *args, **kwargs):
        return super()._call_forward(tf.identity(x), *args, **kwargs)

    def _call_inverse(self, y, *args, **kwargs):
        return super()._call_inverse(tf.identity(y), *args, **kwargs)


class WrongInverse(NoCache):
    def _inverse(self, y):
        return y + 100.0


class WrongSign(NoCache):
    def _forward_log_det_jacobian(self, x):
        return -super()._forward_log_det_jacobian(x)


class WrongInverseLogDet(NoCache):
    def _inverse_log_det_jacobian(self, y):
        return 0.9 * super()._inverse_log_det_jacobian(y)


class LogDetPerElement(NoCache):
    def _forward_log_det_jacobian(self, x):
        return tf.tanh(self.w) + tf.zeros_like(x)


class WrongDtype(NoCache):
    def _forward_log_det_jacobian(self, x):
        return tf.cast(super()._forward_log_det_jacobian(x), tf.float64)


class WrongShape(NoCache):
    def _forward_event_shape(self, shape):
        return shape[:-1] + [7]


class LooksAtTheBatch(NoCache):
    def _forward(self, x):
        rest = list(range(x.shape.rank - 1)) if x.shape.rank else []
        return super()._forward(x) + 0.1 * tf.reduce_mean(x, axis=rest)


class StopsGradient(NoCache):
    def _forward(self, x):
        return x * tf.exp(tf.tanh(self.w)) + tf.stop_gradient(self.b)

    def _inverse(self, y):
        return (y - tf.stop_gradient(self.b)) * tf.exp(-tf.tanh(self.w))


class EagerOnly(NoCache):
    def _forward(self, x):
        return tf.constant(x.numpy()) * tf.exp(tf.tanh(self.w)) + self.b


class DiffersInGraph(NoCache):
    def _forward(self, x):
        return super()._forward(x) + (0.0 if tf.executing_eagerly() else 0.5)


HIDDEN = tf.Variable([0.5, 0.5, 0.5], name="hidden")


class Untracked(NoCache):
    def _forward(self, x):
        return super()._forward(x) + HIDDEN

    def _inverse(self, y):
        return super()._inverse(y - HIDDEN)


class NotFiniteGradient(NoCache):
    def _forward(self, x):
        return super()._forward(x) + tf.sqrt(0.0 * self.w)


class StopsLogDetGradient(NoCache):
    def _forward_log_det_jacobian(self, x):
        return tf.stop_gradient(super()._forward_log_det_jacobian(x)) + 0.0 * tf.reduce_sum(x, -1)


@tf.custom_gradient
def seven(w):
    return tf.tanh(w), lambda upstream: 7.0 * upstream


class WrongCustomGradient(NoCache):
    def _forward(self, x):
        return x * tf.exp(seven(self.w)) + self.b


class KeepsState(NoCache):
    """Computes the scale of the inverse once."""

    def __init__(self):
        super().__init__()
        self._k = tf.exp(-tf.tanh(self.w))

    def _inverse(self, y):
        return (y - self.b) * self._k + 0.0 * self.w


class ScalarLogDet(NoCache):
    def _forward_log_det_jacobian(self, x):
        return tf.reduce_sum(tf.tanh(self.w))


class NotConstant(NoCache):
    """Its log-det is right, its declaration is not."""

    def __init__(self):
        super().__init__()
        self._is_constant_jacobian = True

    def _forward(self, x):
        return super()._forward(x) * tf.norm(x, axis=-1, keepdims=True)

    def _forward_log_det_jacobian(self, x):
        size = tf.norm(x, axis=-1)
        tangent, y = x / size[..., None], super()._forward(x)
        scale = tf.exp(tf.tanh(self.w))
        rank_one = 1.0 + tf.reduce_sum(tangent * y / scale, -1) / size
        return tf.reduce_sum(tf.tanh(self.w)) + 3.0 * tf.math.log(size) + tf.math.log(abs(rank_one))


X = tf.constant(np.random.RandomState(0).normal(size=(4, 3)), tf.float32)

PLANTED = {
    WrongInverse: {"round trip"},
    WrongSign: {"forward log-det"},
    WrongInverseLogDet: {"inverse log-det"},
    LogDetPerElement: {"shapes"},
    WrongDtype: {"dtype"},
    WrongShape: {"shapes"},
    LooksAtTheBatch: {"batch"},
    StopsGradient: {"gradients"},
    EagerOnly: {"tf.function"},
    DiffersInGraph: {"tf.function"},
    Untracked: {"untracked variables"},
    NotFiniteGradient: {"gradients"},
    Sound: {"stale values"},
    StopsLogDetGradient: {"gradients"},
    WrongCustomGradient: {"gradients"},
    KeepsState: {"stale values"},
    ScalarLogDet: {"shapes"},
    NotConstant: {"constant Jacobian"},
}


def test_a_correct_bijector_passes():
    report = flows.check_bijector(NoCache(), X)
    assert report.faults == []
    assert "0 fault(s) in 12 checks" in str(report)


@pytest.mark.parametrize("broken", PLANTED, ids=lambda cls: cls.__name__)
def test_each_planted_fault_is_found(broken):
    with pytest.raises(BijectorFault) as caught:
        flows.check_bijector(broken(), X)
    found = {check for check, faults in caught.value.report.found.items() if faults}
    assert PLANTED[broken] <= found, str(caught.value)


def test_a_wrong_gradient_is_named_with_its_slopes():
    with pytest.raises(BijectorFault) as caught:
        flows.check_bijector(WrongCustomGradient(), X)
    faults = caught.value.report.found["gradients"]
    assert len(faults) == 1, "the input and b have the right gradients"
    assert "forward: the gradient for w:0 gives a slope of" in faults[0]


def test_a_constant_jacobian_is_checked_at_other_latents():
    with pytest.raises(BijectorFault) as caught:
        flows.check_bijector(NotConstant(), X[:1])
    assert caught.value.report.found["constant Jacobian"]
    assert not caught.value.report.found["forward log-det"]


class ContextScale(FlowBijector):
    """y = x * exp(context), with the gradient for the context if it is asked to have it."""

    def __init__(self, sound: bool):
        super().__init__(
            forward_min_event_ndims=1, parameters={"sound": sound}, name="context_scale"
        )
        self._sound = sound

    def _log_scale(self, context):
        return context if self._sound else tf.stop_gradient(context)

    def _forward_and_log_det(self, x, context):
        s = self._log_scale(context)
        return x * tf.exp(s), tf.reduce_sum(s, -1) + 0.0 * x[..., 0]

    def _inverse_and_log_det(self, y, context):
        s = self._log_scale(context)
        return y * tf.exp(-s), -tf.reduce_sum(s, -1) + 0.0 * y[..., 0]


def test_a_context_may_be_an_array():
    assert not flows.check_bijector(ContextScale(True), X, np.asarray(X[::-1])).faults


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_gradients_for_the_context_are_checked(dtype):
    x, context = tf.cast(X, dtype), tf.cast(X[::-1], dtype)
    assert flows.check_bijector(ContextScale(True), x, context).faults == []
    with pytest.raises(BijectorFault, match="the gradient for the context gives a slope of 0 "):
        flows.check_bijector(ContextScale(False), x, context)


def test_every_fault_is_reported_at_once():
    class Several(WrongInverse, WrongDtype, Untracked):
        pass

    with pytest.raises(BijectorFault) as caught:
        flows.check_bijector(Several(), X)
    message = str(caught.value)
    for check in ("round trip", "dtype", "untracked variables"):
        assert f"FAIL {check}" in message


def test_variables_are_restored():
    bijector = NoCache()
    before = [v.numpy() for v in bijector.variables]
    flows.check_bijector(bijector, X)
    for variable, value in zip(bijector.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_cancelling_pair_that_tfp_lets_pass():
    """Forward 2x, inverse y + 100: the cache of TFP hides it from TFP's own test utility."""

    class Pair(tfb.Bijector):
        def __init__(self):
            super().__init__(forward_min_event_ndims=0, name="pair", parameters=None)

        def _forward(self, x):
            return 2.0 * x

        def _inverse(self, y):
            return y + 100.0

        def _forward_log_det_jacobian(self, x):
            return tf.math.log(2.0) * tf.ones_like(x)

    with pytest.raises(BijectorFault, match="inverse\\(forward\\(x\\)\\) - x: off by"):
        flows.check_bijector(Pair(), X[:, 0])


@pytest.mark.parametrize(
    "bijector", [tfb.Exp(), tfb.Softplus(), tfb.Tanh(), tfb.ScaleMatvecTriL([[1.0, 0], [2, 3]])]
)
def test_bijectors_of_tfp_pass(bijector):
    x = X[:, :2] if bijector.forward_min_event_ndims else X
    assert flows.check_bijector(bijector, x).faults == []


def test_unsuitable_latents():
    with pytest.raises(ValueError, match="floating-point x"):
        flows.check_bijector(tfb.Exp(), tf.constant([1, 2]))
    with pytest.raises(ValueError, match="n of 1 or more"):
        flows.check_bijector(tfb.Exp(), tf.zeros([0]))
    with pytest.raises(ValueError, match="injective"):
        flows.check_bijector(tfb.AbsoluteValue(), tf.zeros([2]))


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_one_example_is_enough(shape):
    assert flows.check_bijector(NoCache(), tf.reshape(X[0], shape)).faults == []
