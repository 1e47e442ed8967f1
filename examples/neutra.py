"""Samples a posterior that plain HMC cannot: variational inference first, then HMC through it.

    python examples/neutra.py

The posterior is Neal's funnel, whose truth is known: `v ~ N(0, 3)`, each `x ~ N(0, exp(v / 2))`.
An inverse autoregressive flow is fitted to it as a surrogate posterior, and its bijector warps the
space in which HMC moves (NeuTra, arXiv 1903.03704). Prints what each way makes of the marginal of
`v` and how many effective samples it gets for a gradient, and writes a picture. A minute or less.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from pictures import save_posteriors

import tfp_flows as flows
from tfp_flows.keras_engine import keras

tfd, tfm = tfp.distributions, tfp.mcmc

DIMENSIONS = 5  # v, and four x
CHAINS, BURN_IN, DRAWS = 32, 400, 600


class Chains(NamedTuple):
    """The results of a sampler."""

    draws: np.ndarray  # [draws, chains, dimensions]
    ess_per_gradient: float  # of the coordinate that mixes worst
    r_hat: float  # of the same
    seconds: float


def main() -> None:
    args = parse_arguments()
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    tf.get_logger().setLevel("ERROR")  # effective_sample_size of TFP warns of its own cast

    begin = time.time()
    flow, losses = fit_surrogate(args.steps)
    surrogate = flow.sample(CHAINS * DRAWS, seed=[0, 1]).numpy()
    print(
        f"Surrogate: KL {losses[0]:.2f} -> {losses[-50:].mean():.3f} nats in {args.steps} steps, "
        f"{time.time() - begin:.0f} s"
    )
    start = flow.sample(CHAINS, seed=[0, 2])
    plain = hmc(start, leapfrog_steps=8)
    warped = hmc(start, leapfrog_steps=4, bijector=flow.bijector)

    exact = funnel().sample(CHAINS * DRAWS, seed=[0, 3])
    exact = np.concatenate([exact["v"][:, None], exact["x"]], -1)
    found = {
        "the truth": exact,
        "the flow alone": surrogate,
        "plain HMC": plain.draws.reshape(-1, DIMENSIONS),
        "HMC through the flow": warped.draws.reshape(-1, DIMENSIONS),
    }
    print(f"{'':22s}{'mean of v':>10s}{'its std':>9s}{'P(v < -6)':>11s}")
    for name, draws in found.items():
        v = draws[:, 0]
        print(f"{name:22s}{v.mean():10.2f}{v.std():9.2f}{np.mean(v < -6):11.4f}")
    for name, chains in {"plain HMC": plain, "HMC through the flow": warped}.items():
        print(
            f"{name}: {chains.ess_per_gradient:.4f} effective samples a gradient, "
            f"R-hat {chains.r_hat:.3f}, {chains.seconds:.0f} s"
        )
    gain = warped.ess_per_gradient / plain.ess_per_gradient
    print(f"The flow makes a gradient worth {gain:.0f} times as much.")
    print(f"Picture: {save_posteriors(found, 'x', 'v', out / 'funnel.png')}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, help="of variational inference")
    parser.add_argument("--output", default="build/neutra")
    return parser.parse_args()


def funnel() -> tfd.JointDistribution:
    """The posterior as a model of TFP: a scale `exp(v / 2)` that is itself unknown."""
    return tfd.JointDistributionNamed(
        dict(
            v=tfd.Normal(0.0, 3.0),
            x=lambda v: tfd.Sample(tfd.Normal(0.0, tf.exp(v / 2.0)), DIMENSIONS - 1),
        )
    )


def log_density(z: tf.Tensor) -> tf.Tensor:
    """Of points `[..., DIMENSIONS]`, `v` first."""
    return funnel().log_prob(v=z[..., 0], x=z[..., 1:])


def fit_surrogate(steps: int) -> tuple[flows.distributions.Flow, np.ndarray]:
    """A flow fitted to the posterior, and the loss of every step."""
    flow = flows.iaf(event_shape=(DIMENSIONS,), layers=4, hidden=(32, 32), seed=0)
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    losses = tfp.vi.fit_surrogate_posterior(
        log_density,
        flow,
        optimizer=keras.optimizers.Adam(rate, clipnorm=5.0),
        num_steps=steps,
        sample_size=128,
        seed=[0, 4],
    )
    return flow, losses.numpy()


def hmc(start: tf.Tensor, leapfrog_steps: int, bijector=None) -> Chains:
    """Hamiltonian Monte Carlo, through a bijector if one is given; the step size is adapted."""
    kernel = tfm.HamiltonianMonteCarlo(log_density, 0.1, leapfrog_steps)
    if bijector is not None:
        kernel = tfm.TransformedTransitionKernel(kernel, bijector)
    kernel = tfm.DualAveragingStepSizeAdaptation(
        kernel, num_adaptation_steps=int(0.8 * BURN_IN), target_accept_prob=0.8
    )

    @tf.function(autograph=False)
    def run():
        return tfm.sample_chain(
            DRAWS, start, kernel=kernel, num_burnin_steps=BURN_IN, trace_fn=None, seed=[0, 5]
        )

    begin = time.time()
    draws = run()
    seconds = time.time() - begin
    effective = tf.reduce_min(tfm.effective_sample_size(draws, cross_chain_dims=1))
    gradients = CHAINS * DRAWS * leapfrog_steps
    worst = tf.reduce_max(tfm.potential_scale_reduction(draws))
    return Chains(draws.numpy(), float(effective) / gradients, float(worst), seconds)


if __name__ == "__main__":
    main()
