"""Train LeNet-5 on MNIST with a compiled step, for several seeds, and print each accuracy and their
median.

    NETLOOM_DATA=/path/to/data python examples/mnist.py [--seeds 0 1 2] [--decay] \\
        [--checkpoint mnist.safetensors --resume]

NETLOOM_DATA names the folder that holds mnist/ with the four idx files. SIGINT stops within a step;
with a checkpoint, --resume goes on from there as if nothing had happened.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import netloom as nl
from netloom.frontends import datasets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--decay", action="store_true", help="let the rate fall to zero along a cosine"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="file to save to; each seed's number is added to its name"
    )
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    data = datasets.mnist(size=32)
    try:
        accuracies = [train(data, seed, arguments) for seed in arguments.seeds]
    except KeyboardInterrupt:
        print(
            "stopped; run again with --resume to go on" if arguments.checkpoint else "stopped",
            file=sys.stderr,
        )
        return 130
    listed = ", ".join(f"{accuracy:.2%}" for accuracy in accuracies)
    print(
        f"test accuracy of seeds {arguments.seeds}: {listed}; median {statistics.median(accuracies):.2%}"
    )
    return 0


def train(data: datasets.Dataset, seed: int, arguments: argparse.Namespace) -> float:
    """The test accuracy after the last epoch."""
    steps = arguments.epochs * -(-len(data.x) // arguments.batch)
    rate = nl.optimizers.CosineDecay(arguments.rate, steps) if arguments.decay else arguments.rate
    graph = nl.zoo.lenet5(size=32, seed=seed)
    trainer = nl.compile_training(
        graph, loss=nl.losses.cross_entropy, optimizer=nl.optimizers.Adam(rate)
    )
    checkpoint = arguments.checkpoint
    if checkpoint is not None:
        checkpoint = checkpoint.with_name(f"{checkpoint.stem}-{seed}{checkpoint.suffix}")
    history = trainer.fit(
        data.training, epochs=arguments.epochs, batch=arguments.batch, seed=seed, validation=data.test,
        checkpoint=checkpoint, resume=arguments.resume,
    )  # fmt: skip
    for record in history:
        print(f"seed {seed}  epoch {record['epoch'] + 1}  loss {record['loss']:.4f}  accuracy {record['accuracy']:.2%}"
              f"  test {record['validation']:.2%}")  # fmt: skip
    return history[-1]["validation"]


if __name__ == "__main__":
    sys.exit(main())
