"""Scores of a data set that does not fit into memory."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf

import tfp_flows as flows

ROWS = np.random.RandomState(0).normal(size=(103, 2)).astype("float32")
CONTEXT = np.random.RandomState(1).normal(size=(103, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return flows.FlowModel(flows.real_nvp((2,), layers=2, hidden=(4,)))


def batches(*arrays, size=10):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(size)


def test_every_row_in_order(model, tmp_path, capsys):
    path = tmp_path / "scores.npy"
    scores = model.score(batches(ROWS), path)
    assert isinstance(scores, np.memmap)
    np.testing.assert_allclose(scores, model.log_prob(ROWS), rtol=1e-5)
    np.testing.assert_array_equal(np.load(path), scores)
    assert "11/11" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["scores.npy"]


def test_contexts_and_targets(model, tmp_path):
    path = tmp_path / "scores.npy"
    labelled = model.score(batches(ROWS, np.arange(103)), path, verbose=0)
    np.testing.assert_allclose(labelled, model.log_prob(ROWS), rtol=1e-5)
    conditional = flows.FlowModel(flows.real_nvp((2,), 2, (4,), context_shape=(3,)))
    scores = conditional.score(batches(ROWS, CONTEXT), path, verbose=0)
    np.testing.assert_allclose(scores, conditional.log_prob(ROWS, context=CONTEXT), rtol=1e-5)


def test_pixels(tmp_path):
    flow = flows.Dequantized(flows.glow((2, 2, 1), 1, 1, 4), levels=8)
    pixels = np.random.RandomState(0).randint(0, 8, size=(30, 2, 2, 1))
    pixel_model = flows.FlowModel(flow)
    assert np.isfinite(pixel_model.score(batches(pixels), tmp_path / "s.npy", verbose=0)).all()
    pixels[25] = 9
    with pytest.raises(RuntimeError, match="levels"):
        pixel_model.score(batches(pixels), tmp_path / "other.npy", verbose=0)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npy"]


def test_bad_rows_are_named_or_scored_nan(model, tmp_path):
    rows = ROWS.copy()
    rows[[17, 40], [0, 1]] = np.nan, np.inf
    path = tmp_path / "scores.npy"
    path.write_bytes(b"as it was")
    with pytest.raises(ValueError, match=r"row.*: 17 "):
        model.score(batches(rows), path, verbose=0)
    assert path.read_bytes() == b"as it was"
    with pytest.warns(UserWarning, match=r"2 row.*: 17, 40 "):
        scores = model.score(batches(rows), path, bad_rows="nan", verbose=0)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [17, 40]
    fine = np.delete(np.arange(103), [17, 40])
    np.testing.assert_allclose(scores[fine], model.log_prob(ROWS[fine]), rtol=1e-5)


def test_without_an_end(model, tmp_path):
    endless = batches(ROWS).repeat()
    with pytest.raises(ValueError, match="pass max_batches"):
        model.score(endless, tmp_path / "scores.npy")
    scores = model.score(endless, tmp_path / "scores.npy", max_batches=12, verbose=0)
    again = model.log_prob(np.concatenate([ROWS, ROWS[:10]]))
    np.testing.assert_allclose(scores, again, rtol=1e-5)


def test_clear_errors(model, tmp_path):
    path = tmp_path / "scores.npy"
    with pytest.raises(TypeError, match="from_tensor_slices"):
        model.score(ROWS, path)
    with pytest.raises(ValueError, match="Batch it"):
        model.score(tf.data.Dataset.from_tensor_slices(ROWS), path)
    with pytest.raises(TypeError, match="Dequantized"):
        model.score(batches(np.ones([4, 2], int)), path)
    with pytest.raises(ValueError, match="no examples"):
        model.score(batches(ROWS).take(0), path)
    with pytest.raises(ValueError, match="npy"):
        model.score(batches(ROWS), tmp_path / "scores.csv")
    with pytest.raises(ValueError, match="bad_rows"):
        model.score(batches(ROWS), path, bad_rows="skip")
    assert not list(tmp_path.iterdir())


def test_a_generator_of_unknown_length(model, tmp_path):
    def rows():
        yield from np.split(ROWS, [50, 90])

    spec = tf.TensorSpec([None, 2], tf.float32)
    data = tf.data.Dataset.from_generator(rows, output_signature=spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scores = model.score(data, tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, model.log_prob(ROWS), rtol=1e-5)


MEMORY = """
import resource, sys
import numpy as np, tensorflow as tf
import tfp_flows as flows

model = flows.FlowModel(flows.nice((64,), layers=2, hidden=(4,)))
made = tf.data.Dataset.range(0, 2_000_000, 4000).map(
    lambda i: tf.random.stateless_normal([4000, 64], tf.stack([i, 0])))
peaks = []
for batches in (50, 500):  # 51 and 512 MB
    scores = model.score(made, sys.argv[1], max_batches=batches, verbose=0)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
assert len(scores) == 2_000_000
print("grown by", peaks[1] - peaks[0], "of", peaks[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "scores.npy")],
        check=True,
        capture_output=True,
        text=True,
    )
    grown = float(done.stdout.split("grown by ")[1].split()[0])
    assert grown < 60, done.stdout  # MB, of 461 MB more data
