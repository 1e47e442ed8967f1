"""Fits every family of flows to a known density, and plots them beside the truth.

    python examples/densities.py                    # all families, the checkerboard
    python examples/densities.py --density rings --families maf ffjord

Prints for each family how many nats it is above the entropy of the density (0 is perfect), and
writes a picture and a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from known_densities import DENSITIES, KnownDensity
from pictures import save_densities

import tfp_flows as flows
from tfp_flows.keras_engine import keras

BATCH = 512


class Recipe(NamedTuple):
    """A family of flows, its size, and how long it is trained."""

    build: Callable[[], object]
    steps: int
    rate: float = 3e-3


E = (2,)
UNITS, GRID_OF_TIME = (64, 64, 64), dict(solver="fixed", num_steps=6)
RECIPES = {
    "nice": Recipe(lambda: flows.nice(E, 12, (64, 64)), 3000),
    "real_nvp": Recipe(lambda: flows.real_nvp(E, 12, (64, 64)), 3000),
    "maf": Recipe(lambda: flows.maf(E, 12, (64, 64), seed=0), 3000),
    "neural_spline": Recipe(lambda: flows.neural_spline(E, 6, (64, 64), seed=0), 2500),
    "maf, splines": Recipe(lambda: flows.maf(E, 4, (64, 64), "spline", seed=0), 2000),
    "flow_plus_plus": Recipe(lambda: flows.flow_plus_plus(E, 4, (64, 64), seed=0), 2500, 5e-3),
    "residual": Recipe(lambda: flows.residual(E, 10, (64, 64), bound=0.97, seed=0), 1000),
    "ffjord": Recipe(lambda: flows.ffjord(E, UNITS, activation="tanh", **GRID_OF_TIME), 800, 1e-2),
    "iaf": Recipe(lambda: flows.iaf(E, 4, (64, 64), seed=0), 2000),
    "sylvester": Recipe(lambda: flows.sylvester(E, 12, seed=0), 600),
    "planar": Recipe(lambda: flows.planar(E, 16, seed=0), 600),
    "radial": Recipe(lambda: flows.radial(E, 16, seed=0), 600),
}


class Fitted(NamedTuple):
    """The results of one family."""

    nats_above: float  # mean negative log-likelihood of new samples, minus the entropy
    density: np.ndarray  # on the grid
    parameters: int
    seconds: float
    log_prob_us: float  # microseconds for an example, in a batch of 4096
    sample_us: float


def main() -> None:
    args = parse_arguments()
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    truth = DENSITIES[args.density]
    entropy = truth.entropy()
    print(f"{args.density}: entropy {entropy:.3f} nats")
    fitted = {}
    for name in args.families:
        keras.utils.set_random_seed(args.seed)
        fitted[name] = fit(name, truth, entropy, args.speed)
        one = fitted[name]
        print(f"{name:16s} +{one.nats_above:.3f} nats, {one.seconds:.0f} s", flush=True)
    densities = {f"{n}, +{f.nats_above:.2f} nats": f.density for n, f in fitted.items()}
    exact = np.exp(truth.log_prob(grid(truth))).reshape(GRID, GRID)
    picture = save_densities({"the truth": exact, **densities}, out / f"{args.density}.png")
    (out / f"{args.density}.md").write_text(table(args.density, entropy, fitted))
    print(f"Picture: {picture}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--density", choices=DENSITIES, default="checkerboard")
    parser.add_argument("--families", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--speed", type=float, default=1.0, help="divides the training steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="build/densities")
    return parser.parse_args()


def fit(name: str, truth: KnownDensity, entropy: float, speed: float) -> Fitted:
    """Trains one family on fresh samples, and compares it with the truth."""
    recipe = RECIPES[name]
    steps = max(1, int(recipe.steps / speed))
    model = flows.FlowModel(recipe.build(), name=name.replace(", ", "_"))
    rate = keras.optimizers.schedules.CosineDecay(recipe.rate, steps)
    model.compile(optimizer=keras.optimizers.Adam(rate, clipnorm=5.0))
    begin = time.time()
    model.fit(truth.sample(steps * BATCH, 0), batch_size=BATCH)
    seconds = time.time() - begin
    nats = -np.mean(model.log_prob(truth.sample(20_000, 1)))
    density = np.exp(model.log_prob(grid(truth))).reshape(GRID, GRID)
    parameters = sum(int(tf.size(v)) for v in model.flow.trainable_variables)
    x = truth.sample(TIMED, 2)
    times = [microseconds(lambda: model.log_prob(x)), microseconds(lambda: draw(model))]
    return Fitted(float(nats) - entropy, density, parameters, seconds, *times)


TIMED = 4096


def draw(model: flows.FlowModel) -> tf.Tensor:
    return model.sample(TIMED, seed=0, batch_size=TIMED)


def microseconds(call: Callable[[], tf.Tensor]) -> float:
    """Time per example, of `TIMED`: the best of three calls after a warm-up."""
    call()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        call().numpy()
        times.append(time.perf_counter() - begin)
    return min(times) / TIMED * 1e6


GRID = 160  # points on a side


def grid(truth: KnownDensity) -> np.ndarray:
    """Points of the square around the density, `[GRID * GRID, 2]`, row by row from the top."""
    line = np.linspace(-truth.half_width, truth.half_width, GRID, dtype=np.float32)
    return np.stack(np.meshgrid(line, line[::-1]), -1).reshape(-1, 2)


def table(density: str, entropy: float, fitted: dict[str, Fitted]) -> str:
    """The results as Markdown."""
    rows = [
        f"| {name} | {one.nats_above:.3f} | {one.parameters:,} | {one.seconds:.0f} "
        f"| {one.log_prob_us:.1f} | {one.sample_us:.1f} |"
        for name, one in sorted(fitted.items(), key=lambda item: item[1].nats_above)
    ]
    head = [
        f"| family | nats above the entropy of the {density} ({entropy:.3f}) | parameters "
        "| training, s | `log_prob`, µs | `sample`, µs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    main()
