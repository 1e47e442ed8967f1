"""Trains a Glow given the class of each digit, draws every class, and classifies with it.

    python examples/digit_classes.py

One trainable vector a class reaches every network and the prior (`flows.with_labels`). The flow
classifies by Bayes's rule, without ever having been trained to: the class with the largest density.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf
from pictures import save_classes
from sklearn.datasets import load_digits

import tfp_flows as flows
from tfp_flows.keras_engine import keras

CLASSES = 10
TRAINED = 1437  # of 1797 digits


def main() -> None:
    args = parse_arguments()
    keras.utils.set_random_seed(0)
    digits = load_digits()
    images, labels = digits.images.astype(np.int32)[..., np.newaxis], digits.target
    order = np.random.RandomState(0).permutation(len(images))
    train, test = order[:TRAINED], order[TRAINED:]

    glow = flows.glow((8, 8, 1), levels=2, steps=4, hidden=64, dropout=0.2, context_shape=(16,))
    flow = flows.Dequantized(flows.with_labels(glow, CLASSES), levels=17)
    model = flows.FlowModel(flow)
    steps = args.epochs * -(-TRAINED // 64)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0))
    model.fit((images[train], labels[train]), epochs=args.epochs, batch_size=64)

    result = model.evaluate((images[test], labels[test]), verbose=0, return_dict=True)
    accuracy = float(np.mean(classify(model, images[test]) == labels[test]))
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    wanted = np.repeat(np.arange(CLASSES), 12)
    samples = model.sample(len(wanted), seed=0, temperature=0.8, context=wanted).numpy()
    print(f"\nTest images given their class: {result['bits_per_dim']:.3f} bits/dim.")
    print(f"Classified right by the largest density: {accuracy:.1%} of {len(test)} test images.")
    print(f"Picture: {save_classes(samples, 12, 17, out / 'classes.png')}")


def classify(model: flows.FlowModel, images: np.ndarray, draws: int = 8) -> np.ndarray:
    """The class with the largest density for each image, averaged over draws of noise."""
    scores = np.zeros([CLASSES, len(images)])
    for label in range(CLASSES):
        for _ in range(draws):
            scores[label] += model.log_prob(images, context=tf.constant(label)).numpy()
    return scores.argmax(0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--output", default="build/digit_classes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
