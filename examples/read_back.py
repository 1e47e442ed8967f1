"""Loads a saved flow in a new process, and compares its results with those before.

python examples/read_back.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main() -> None:
    out = Path(sys.argv[1])
    x, latents = np.load(out / "probe.npy"), np.load(out / "probe_latents.npy")

    served = tf.saved_model.load(str(out / "saved_model"))
    assert not any(name.startswith(("tfp_flows", "tensorflow_probability")) for name in sys.modules)
    z = served.signatures["encode"](x=tf.constant(x))["encode"]
    seed, ten = tf.constant([0, 0]), tf.constant(10)
    samples = served.signatures["sample"](n=ten, seed=seed, temperature=tf.constant(0.8))["sample"]
    compare("SavedModel, without tfp_flows or TFP", z, latents)

    import tfp_flows  # noqa: F401  (registers the model's class with Keras)
    from tfp_flows.keras_engine import keras

    model = keras.saving.load_model(out / "glow.keras")
    compare("glow.keras", model.encode(x), latents)
    same = np.array_equal(samples, model.sample(10, seed=0, temperature=0.8))
    print(f"  both give {'the same' if same else 'DIFFERENT'} samples for one seed")
    if not same:
        sys.exit(1)


def compare(what: str, found, expected: np.ndarray) -> None:
    gap = float(np.abs(np.asarray(found) - expected).max())
    print(f"  read back in another process: {what}, latents differ by {gap:.1e} at most")
    if not gap < 1e-3:
        sys.exit(f"{what} does not give what was saved.")


if __name__ == "__main__":
    main()
