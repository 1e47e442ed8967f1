"""Arrays as batches, and how many steps run at a time."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_flows as flows
from tfp_flows import bijectors as fb
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.model.data_adapter import batches
from tfp_flows.model.training_state import Progress

ROWS = np.arange(22, dtype="float32")[:, None] * np.ones([1, 2], "float32")


def model():
    made = flows.FlowModel(flows.real_nvp((2,), layers=2, hidden=(4,)))
    made.compile(keras.optimizers.SGD(1e-3))
    return made


def test_every_row_once_an_epoch_in_a_new_order():
    progress = Progress()
    dataset = batches((ROWS, ROWS[:, 0]), 5, True, progress)
    assert len(dataset) == 5
    epochs = []
    for _ in range(2):
        parts = list(dataset.as_numpy_iterator())
        assert [len(x) for x, _ in parts] == [5, 5, 5, 5, 2]
        for x, weight in parts:
            np.testing.assert_array_equal(x[:, 0], weight)
        epochs.append(np.concatenate([w for _, w in parts]))
        progress.advance()
        np.testing.assert_array_equal(np.sort(epochs[-1]), ROWS[:, 0])
    assert (epochs[0] != epochs[1]).any()


def test_in_order_and_fewer_rows_than_a_batch():
    (part,) = batches((ROWS,), 100, False, Progress()).as_numpy_iterator()
    np.testing.assert_array_equal(part[0], ROWS)


def test_arrays_and_data_sets_train_alike():
    rows = ROWS / 9
    data_set = tf.data.Dataset.from_tensor_slices(rows).batch(5)
    losses = []
    for x, size in ((rows, 5), (data_set, None)):
        keras.utils.set_random_seed(0)
        ours = model()
        flows.initialize(ours.flow, rows)
        fit = ours.fit(x, batch_size=size, epochs=2, shuffle=False, verbose=0)
        losses.append(fit.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.skipif(IS_LEGACY, reason="under Keras 3 only")
def test_several_small_steps_per_execution_unless_a_callback_has_batch_hooks(tmp_path):
    class Counts(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch, logs=None):
            self.seen += 1

    ours, counts = model(), Counts()
    saves = keras.callbacks.ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True)
    ours.fit(ROWS, batch_size=2, verbose=0, callbacks=[saves])
    assert ours.steps_per_execution == 10
    assert int(ours.optimizer.iterations) == 11
    ours.fit(ROWS, batch_size=2, verbose=0, callbacks=[counts])
    assert (ours.steps_per_execution, counts.seen) == (1, 11)
    ours.compile("sgd", steps_per_execution=3)
    ours.fit(ROWS, batch_size=2, verbose=0)
    assert ours.steps_per_execution == 3
    image = flows.FlowModel(flows.glow((4, 4, 1), 1, 1, 2))
    image.compile()
    image.fit(np.random.uniform(size=(4, 4, 4, 1)).astype("float32"), verbose=0)
    assert image.steps_per_execution == 1


@pytest.mark.skipif(IS_LEGACY, reason="under Keras 3 only")
def test_no_more_steps_than_requested_and_a_progress_bar_that_counts_them(capsys):
    ours = model()
    rows = np.tile(ROWS, [4, 1])  # 88 rows: 18 batches of 5
    ours.fit(rows, batch_size=5, verbose=1)
    ours.evaluate(rows, batch_size=5, verbose=1)
    ours.predict(rows, batch_size=5, verbose=1)
    shown = capsys.readouterr().out
    assert shown.count("10/18") == 3 and "18/18" in shown and "20/18" not in shown
    endless = tf.data.Dataset.from_tensors(ROWS).repeat()
    before = int(ours.optimizer.iterations)
    ours.fit(endless, steps_per_epoch=3, validation_data=endless, validation_steps=3, verbose=0)
    assert int(ours.optimizer.iterations) - before == 3
    assert ours.steps_per_execution == 3
    ours.fit(((ROWS,) for _ in range(7)), steps_per_epoch=7, verbose=0)
    assert int(ours.optimizer.iterations) - before == 10


def test_a_sorted_array_is_initialised_on_rows_from_all_of_it():
    rows = np.linspace(-3.0, 50.0, 2000, dtype="float32")[:, None] * np.ones([1, 2], "float32")
    base = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), 2)
    ours = flows.FlowModel(tfp.distributions.TransformedDistribution(base, fb.ActNorm(2)))
    ours.compile(keras.optimizers.SGD(0.0))
    ours.fit(rows, verbose=0)
    latents = ours.encode(rows)
    np.testing.assert_allclose(np.mean(latents, 0), 0.0, atol=0.01)  # 256 of 2000 rows
    np.testing.assert_allclose(np.std(latents, 0), 1.0, atol=0.01)


def test_samples_in_parts_are_the_samples():
    ours = model()
    flows.initialize(ours.flow, ROWS)
    whole = ours.sample(23, seed=3)
    np.testing.assert_allclose(ours.sample(23, seed=3, batch_size=5), whole, rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size=0"):
        ours.sample(3, batch_size=0)


def test_samples_in_parts_keep_their_contexts():
    flow = flows.real_nvp((2,), layers=2, hidden=(4,), context_shape=(3,))
    context = np.random.RandomState(0).normal(size=(5, 3)).astype(np.float32)
    flows.initialize(flow, np.random.RandomState(1).normal(size=(5, 2)), context=context)
    for variable in flow.trainable_variables:
        variable.assign_add(0.3 * tf.ones_like(variable))
    model = flows.FlowModel(flow)
    whole = model.sample(5, seed=3, context=context)
    assert np.ptp(model.sample(5, seed=3, context=context[0]).numpy() - whole, axis=0).max() > 1e-3
    for size in (1, 2, 3):  # with 1, contexts that are not sliced would broadcast
        parts = model.sample(5, seed=3, batch_size=size, context=context)
        assert parts.shape == (5, 2)
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)
    one = model.sample(5, seed=3, context=context[0])
    for single in (context[0], context[:1]):
        parts = model.sample(5, seed=3, batch_size=2, context=single)
        np.testing.assert_allclose(parts, one, rtol=1e-4, atol=1e-5)
