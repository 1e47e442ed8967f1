"""Writes the files of this format that later versions must still read.

One command, after a change of the format: `python tests/keras/saved/make.py`. It trains a few
small flows for a few steps under each Keras engine, and writes each as `.keras` and `.weights.h5`
with its log-probabilities, to `tests/keras/saved/format_<n>/<engine>`. Files of an older format
stay as they are.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import tfp_flows as flows
from tfp_flows.keras_engine import IS_LEGACY, keras
from tfp_flows.saving import FORMAT

HERE = Path(__file__).parent
ENGINES = ("keras", "tf_keras")
N = 16
RANDOM = np.random.RandomState(0)
ROWS = (RANDOM.normal(size=(N, 3)) * [1.0, 0.5, 2.0] + [0.0, 1.0, -3.0]).astype(np.float32)
PIXELS = RANDOM.randint(0, 8, (N, 2, 2, 1)).astype(np.int32)
CONTEXTS = RANDOM.normal(size=(N, 2)).astype(np.float32)
LABELS = np.arange(N) % 3


def labelled():
    flow = flows.real_nvp((3,), 2, (4,), context_shape=(2,), dtype=tf.float64)
    return flows.with_labels(flow, classes=3)


# name: (flow, examples, contexts)
FLOWS = {
    "real_nvp": (lambda: flows.real_nvp((3,), 3, (4,)), ROWS, None),
    "maf-context": (
        lambda: flows.maf((3,), 2, (4,), context_shape=(2,)),
        ROWS,
        CONTEXTS,
    ),
    "neural_spline": (lambda: flows.neural_spline((3,), 2, (4,), 4), ROWS, None),
    "labels-float64": (labelled, ROWS.astype(np.float64), LABELS),
    "ffjord": (lambda: flows.ffjord((3,), (4,), solver="fixed", num_steps=4), ROWS, None),
    "glow": (lambda: flows.glow((2, 2, 1), 1, 2, 2), PIXELS / 8 - 0.4, None),
    "dequantized": (
        lambda: flows.Dequantized(flows.glow((2, 2, 1), 1, 1, 2), levels=8),
        PIXELS,
        None,
    ),
}


def answers(model, name: str) -> np.ndarray:
    """What a file must reproduce: log-probabilities; latents where these are random."""
    _, x, context = FLOWS[name]
    given = {} if context is None else {"context": context}
    function = model.encode if isinstance(model.flow, flows.Dequantized) else model.log_prob
    return np.asarray(function(x, **given), np.float64)


def main() -> None:
    folder = HERE / f"format_{FORMAT}" / ("tf_keras" if IS_LEGACY else "keras")
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, (build, x, context) in FLOWS.items():
        keras.utils.set_random_seed(0)
        model = flows.FlowModel(build())
        model.compile(keras.optimizers.Adam(1e-2))
        model.fit(x if context is None else (x, context), epochs=3, batch_size=8, verbose=0)
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        expected[name] = answers(model, name).tolist()
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
    if not IS_LEGACY:
        environment = os.environ | {"TF_USE_LEGACY_KERAS": "1"}
        subprocess.run([sys.executable, __file__], check=True, env=environment)
