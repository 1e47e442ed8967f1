"""Trains one flow in several processes at once, and compares it with one device.

    python examples/many_workers.py --workers 2 --steps 90

The processes talk over 127.0.0.1. On several machines nothing changes but `TF_CONFIG`, which then
names their addresses: each runs the same script.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer

BATCH = 64  # of all workers together


def main() -> None:
    args = parse_arguments()
    if "TF_CONFIG" in os.environ:  # before anything else of TensorFlow
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        train(strategy, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = run_workers(args, Path(folder))
    print("\nOne device, the same batches:")
    alone = train(None, args)
    for index, result in enumerate(results):
        losses = [f"{loss:.4f}" for loss in result["loss"]]
        print(f"Worker {index}: nats {losses[0]} ... {losses[-1]}")
    print(f"One device: nats {alone['loss'][0]:.4f} ... {alone['loss'][-1]:.4f}")
    same = all(np.array_equal(r[k], results[0][k]) for r in results for k in results[0])
    apart = max(np.abs(results[0][k] - alone[k]).max() for k in alone)
    print(f"Losses and weights of all workers are {'equal' if same else 'DIFFERENT'}.")
    print(f"From one device they differ by {apart:.1e} at most.")
    if not (same and apart < 1e-3):
        sys.exit("Many workers do not train like one device.")


def run_workers(args: argparse.Namespace, folder: Path) -> list[dict[str, np.ndarray]]:
    """Starts the workers on this machine, and waits for their results."""
    ports = free_ports(args.workers)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    print(f"{args.workers} workers: {', '.join(cluster['worker'])}; the first one shows progress.")
    files = [folder / f"{index}.npz" for index in range(args.workers)]
    processes = []
    for index, file in enumerate(files):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        command = [sys.executable, __file__, "--steps", str(args.steps), "--output", str(file)]
        environment = os.environ | {"TF_CONFIG": json.dumps(task)}
        processes.append(subprocess.Popen(command, env=environment))
    failed = [index for index, process in enumerate(processes) if process.wait()]
    if failed:
        sys.exit(f"Worker(s) {failed} failed; see above.")
    return [dict(np.load(file)) for file in files]


def free_ports(count: int) -> list[int]:
    """Free ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def train(strategy: tf.distribute.Strategy | None, args: argparse.Namespace):
    """Trains, alone or as one of many; returns losses and weights by name."""
    import tfp_flows as flows  # creates tensors, which must come after the strategy
    from tfp_flows.keras_engine import keras

    keras.utils.set_random_seed(0)
    x = load_breast_cancer().data
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = flows.FlowModel(flows.real_nvp(event_shape=(30,), layers=4, hidden=(32,)))
        model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=10.0))
    epochs = max(1, args.steps * BATCH // len(x))
    chief = strategy is None or strategy.cluster_resolver.task_id == 0
    verbose = 2 if chief else 0
    history = model.fit(x, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=verbose)
    weights = {f"weight_{i}": v.numpy() for i, v in enumerate(model.flow.trainable_variables)}
    found = {"loss": np.array(history.history["loss"]), **weights}
    if args.output:
        np.savez(args.output, **found)
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
