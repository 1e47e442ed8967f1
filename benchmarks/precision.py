"""How far log-probabilities are off in single and half precision, on a deep Glow.

    python -m benchmarks.precision                      # Glow 3x32 on patches of photographs
    python -m benchmarks.precision --levels 2 --depth 4 --steps 20

Trains a Glow for some steps, gives its weights to flows of other precisions, and compares their
log-probabilities with those in double precision, and the round trip of their worst layer.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

import tfp_flows as flows
from tfp_flows.callbacks.measures import Walk
from tfp_flows.core import variable_paths
from tfp_flows.keras_engine import keras

PRECISIONS = {  # dtype of the flow, dtype policy of its networks
    "float64": (tf.float64, "float64"),
    "float32": (tf.float32, "float32"),
    "float32, networks in bfloat16": (tf.float32, "mixed_bfloat16"),
    "float32, networks in float16": (tf.float32, "mixed_float16"),
}
SIZE, LEVELS_OF_GREY = 32, 256


def main() -> None:
    args = parse_arguments()
    keras.utils.set_random_seed(0)
    x = patches(4 * args.batch * args.steps + args.examples)
    flow = build(args, *PRECISIONS["float32"])
    model = flows.FlowModel(flow)
    rate = keras.optimizers.schedules.PolynomialDecay(1e-4, args.steps // 2, 1e-3)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0))
    model.fit(x[args.examples :][: args.batch * args.steps], batch_size=args.batch)
    probe, pixels = x[: args.examples], flow.event_shape.num_elements()
    exact = None
    print(table_row("flow", "log_prob off by, nats", "bits/dim", "round trip", "worst layer"))
    print(table_row(*["---"] * 5))
    for name, (dtype, policy) in PRECISIONS.items():
        twin = build(args, dtype, policy)
        copy_values(flow, twin)
        log_prob = twin.log_prob(probe.astype(dtype.as_numpy_dtype)).numpy().astype(np.float64)
        exact = log_prob if exact is None else exact
        off = np.abs(log_prob - exact).max()
        whole, worst = round_trips(twin, probe.astype(dtype.as_numpy_dtype))
        bits = off / pixels / np.log(2.0)
        print(table_row(name, f"{off:.2g}", f"{bits:.1g}", f"{whole:.1g}", f"{worst:.1g}"))
    print(f"\nlog_prob is {exact.mean():.0f} nats on average, over {pixels} dimensions.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--depth", type=int, default=32, help="steps of flow in each level")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--examples", type=int, default=16, help="to compare on")
    return parser.parse_args()


def patches(count: int) -> np.ndarray:
    """Random patches of two colour photographs, dequantised, in [-1/2, 1/2)."""
    random = np.random.RandomState(0)
    photographs = load_sample_images().images
    found = []
    for _ in range(count):
        image = photographs[random.randint(len(photographs))]
        top, left = (random.randint(n - SIZE) for n in image.shape[:2])
        found.append(image[top : top + SIZE, left : left + SIZE])
    pixels = np.stack(found)
    noise = random.uniform(size=pixels.shape)
    return ((pixels + noise) / LEVELS_OF_GREY - 0.5).astype("float32")


def build(args: argparse.Namespace, dtype: tf.DType, policy: str):
    return flows.glow(
        (SIZE, SIZE, 3),
        args.levels,
        args.depth,
        args.hidden,
        dtype=dtype,
        network_dtype=policy,
        seed=0,
    )


def copy_values(source, target) -> None:
    values = variable_paths(source)
    for path, variable in variable_paths(target).items():
        variable.assign(tf.cast(values[path], variable.dtype))


def round_trips(flow, x: np.ndarray) -> tuple[float, float]:
    """The largest relative error of decoding what was encoded: whole, and of the worst layer."""
    latent = flow.bijector.inverse(x)
    back = flow.bijector.forward(tf.identity(latent)).numpy()
    whole = np.abs(back - x).max() / np.abs(x).max()
    return float(whole), max(layer["round_trip"] for layer in Walk(flow)(x))


def table_row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
