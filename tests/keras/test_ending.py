"""How a training that diverges ends, and where outliers pass."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model.guard import Guard

ROWS = np.random.RandomState(0).normal(size=(96, 2)).astype("float32")
CONTEXT = ROWS[:, :1].copy()


def compiled(optimizer, jit=False, **kwargs):
    model = flows.FlowModel(flows.real_nvp((2,), layers=2, hidden=(4,), **kwargs))
    model.compile(optimizer, jit_compile=jit)
    return model


class Raise(keras.callbacks.Callback):
    """Raises the learning rate after the first epoch."""

    ended = False

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.model.optimizer.learning_rate = 1e25

    def on_train_end(self, logs=None):
        self.ended = True


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_a_training_that_diverges_ends_as_in_keras(jit):
    model, watch = compiled(keras.optimizers.SGD(1e-2), jit), Raise()
    best = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    with pytest.warns(UserWarning, match="training has diverged. The learning rate is too high"):
        history = model.fit(ROWS, batch_size=12, epochs=5, verbose=0, callbacks=[best, watch])
    assert history.epoch == [0, 1] and watch.ended
    if not IS_LEGACY:  # tf_keras restores where its own patience ends, as after TerminateOnNaN
        loss = model.evaluate(ROWS, verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(loss, history.history["loss"][0], atol=0.1)
    assert all(np.isfinite(v).all() for v in model.flow.trainable_variables)


def test_one_warning_names_the_cause():
    model = compiled(keras.optimizers.SGD(1e-3), context_shape=(1,))
    flows.initialize(model.flow, ROWS, context=CONTEXT)
    nan, fine = np.float32(np.nan), np.ones([32], "float32")
    batch, given = ROWS[:32], CONTEXT[:32]
    for bad, cause in (
        ((({"x": batch + nan, "context": given}), fine, fine), "infinity in the data"),
        ((({"x": batch, "context": given + nan}), fine, fine), "infinity in the context"),
        ((({"x": batch, "context": given}), fine, -fine), "sample weights that are negative"),
        (
            (({"x": batch * 1e30, "context": given}), fine, fine),
            "others were fine. Look for outliers",
        ),
    ):
        good = ({"x": batch, "context": given}, fine, fine)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            batches = (b for b in (good, bad, good))
            history = model.fit(batches, steps_per_epoch=3, epochs=2, verbose=0)
        said = [str(w.message) for w in warned if "Training stops" in str(w.message)]
        assert len(said) == 1 and cause in said[0], (cause, said)
        assert history.epoch == [0]
        assert np.isfinite(history.history["loss"][0]) == ("outliers" not in cause)


def test_data_that_overflow_from_the_start_are_told_from_a_training_that_diverges():
    model = compiled("adam")
    flows.initialize(model.flow, ROWS)
    with pytest.warns(UserWarning, match="no step has succeeded yet"):
        model.fit(((ROWS * 1e30,) for _ in range(4)), steps_per_epoch=4, verbose=0)
    with pytest.raises(ValueError, match="no step has succeeded yet"):
        model.train_on_batch(ROWS * 1e30)


def test_outliers_pass_where_the_optimizer_clips():
    """A steep region, whose gradients are a thousand times as large as those before it."""
    steep = np.concatenate([ROWS[:48], 3e3 * ROWS[:48]])

    def skipped(**clip):
        model = compiled(keras.optimizers.SGD(1e-9, **clip))
        flows.initialize(model.flow, ROWS)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            history = model.fit(steep, batch_size=4, epochs=2, shuffle=False, verbose=0)
        assert history.epoch == [0, 1] and np.isfinite(history.history["loss"]).all()
        return sum("times as large as usual" in str(w.message) for w in warned)

    assert skipped() == 1  # in the first epoch; what lasts is usual then
    for clip in ("clipnorm", "global_clipnorm", "clipvalue"):
        assert skipped(**{clip: 5.0}) == 0


def test_a_guard_that_clips_lets_all_finite_gradients_pass():
    guard = Guard()
    for norm, passes in ((1.0, True), (1e8, True), (1e30, False), (1.0, True)):
        (kept,), _ = guard([tf.constant([norm])], clipped=True)
        assert bool(kept[0] == norm) == passes
    assert guard.take() == (0, 0, 0, 1, 0)


def test_correlated_data_are_learnt_with_clipped_gradients():
    """Nearly dependent columns make gradients jump; no epoch is lost to the rule for outliers."""
    random = np.random.RandomState(1)
    x = random.normal(size=(512, 1)) + 1e-3 * random.normal(size=(512, 12))
    model = flows.FlowModel(flows.real_nvp((12,), layers=4, hidden=(16,)))
    model.compile(keras.optimizers.Adam(1e-3, clipnorm=5.0))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*skipped")
        history = model.fit(x.astype("float32"), batch_size=64, epochs=4, verbose=0)
    assert len(history.epoch) == 4 and history.history["loss"][-1] < history.history["loss"][0]
