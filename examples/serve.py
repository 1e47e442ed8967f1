"""Trains a small flow on real data, exports it, and measures the latency of serving it.

python examples/serve.py [--output build/serve] [--epochs 60]

The data are scikit-learn's breast cancer measurements: 569 rows of 30 numbers.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer

import tfp_flows as flows

BATCHES = (1, 32, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/serve"))
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)

    model = train(arguments.epochs)
    model.save(folder / "flow.keras")
    model.save_weights(folder / "flow.weights.h5")
    model.export(folder / "saved_model")
    for name in ("flow.keras", "flow.weights.h5", "saved_model"):
        flows.verify(folder / name)
    print_sizes(folder)
    print_latencies(folder / "saved_model")
    print(
        "\nFrom a shell:\n"
        f"  saved_model_cli show --dir {folder}/saved_model --all\n"
        f"  saved_model_cli run --dir {folder}/saved_model --tag_set serve "
        "--signature_def sample \\\n"
        "    --input_exprs 'n=4;seed=[1,0];temperature=1.0'\n"
        f"  cd {folder}/saved_model && sha256sum --check assets.extra/sha256sums"
    )


def train(epochs: int) -> flows.FlowModel:
    x = load_breast_cancer().data.astype(np.float32)
    x = (x - x.mean(0)) / x.std(0)
    x = x[np.random.RandomState(0).permutation(len(x))]
    model = flows.FlowModel(flows.real_nvp(event_shape=(30,), layers=6, hidden=(64, 64)))
    model.compile(optimizer="adam")
    model.fit(x[:469], epochs=epochs, batch_size=64, verbose=0)
    nats = model.evaluate(x[469:], verbose=0, return_dict=True)["loss"]
    gaussian = np.mean(0.5 * np.sum(x[469:] ** 2 + np.log(2 * np.pi), axis=1))
    print(f"100 rows held out: {nats:.1f} nats a row; independent Gaussians get {gaussian:.1f}")
    return model


def print_sizes(folder: Path) -> None:
    print(f"\n{'file':<48}{'KB':>8}")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        print(f"{path.relative_to(folder)!s:<48}{path.stat().st_size / 1024:>8.1f}")


def print_latencies(path: Path) -> None:
    """Prints the median of many calls; the first one also traces and allocates."""
    start = time.perf_counter()
    served = tf.saved_model.load(str(path)).signatures
    print(f"\nloaded in {time.perf_counter() - start:.2f} s")
    print(f"{'signature':<18}{'first call, ms':>16}", end="")
    print("".join(f"{f'batch {n}, ms':>16}" for n in BATCHES))
    for name, signature in served.items():
        times = [latencies(signature, arguments(signature, n)) for n in BATCHES]
        print(f"{name:<18}{times[0][0]:>16.1f}", end="")
        print("".join(f"{np.median(t[1:]):>16.2f}" for t in times))


def arguments(signature, n: int) -> dict[str, tf.Tensor]:
    """Arguments of a signature for a batch of `n`."""
    given = {
        "n": tf.constant(n),
        "seed": tf.constant([1, 0]),
        "temperature": tf.constant(1.0),
        "x": tf.random.stateless_normal([n, 30], [0, 0]),
        "z": tf.random.stateless_normal([n, 30], [0, 1]),
    }
    return {name: given[name] for name in signature.structured_input_signature[1]}


def latencies(signature, given: dict[str, tf.Tensor], calls: int = 50) -> list[float]:
    """Milliseconds of each call."""
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        (output,) = signature(**given).values()
        output.numpy()
        times.append(1e3 * (time.perf_counter() - start))
    return times


if __name__ == "__main__":
    main()
