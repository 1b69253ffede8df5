"""Train LeNet-5 on scikit-learn's digits with a compiled step, compile it to a shared object, and
run that.

    python examples/digits.py [--epochs 15] [--output lenet5.so]

Prints the accuracy on held-back digits before and after the way through the shared object, and how
well the shared object agrees with the graph's interpreter. Exits with 1 if the accuracy is below
97 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import netloom as nl
from netloom.compiler.interpret import interpret
from netloom.frontends import datasets

TARGET = 0.97
BATCH = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="where to keep the shared object (default: a temporary folder)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        accuracy = run(
            arguments.epochs, arguments.seed, arguments.output or Path(folder) / "lenet5.so"
        )
    return 0 if accuracy >= TARGET else 1


def run(epochs: int, seed: int, output: Path) -> float:
    """Train, compile, load and run; returns the shared object's accuracy on the held-back
    digits.
    """
    data = datasets.digits()
    graph = nl.zoo.lenet5(seed=seed)
    rate = nl.optimizers.CosineDecay(1e-3, steps=epochs * -(-len(data.x) // BATCH))
    trainer = nl.compile_training(
        graph, loss=nl.losses.cross_entropy, optimizer=nl.optimizers.Adam(rate)
    )
    print(f"training LeNet-5 on {len(data.x)} digits, {epochs} epochs")
    for record in trainer.fit(
        data.training, epochs=epochs, batch=BATCH, seed=seed, validation=data.test
    ):
        print(f"  epoch {record['epoch'] + 1:2}  loss {record['loss']:.4f}  accuracy "
              f"{record['accuracy']:.2%}"
              f"  held back {record['validation']:.2%}")  # fmt: skip

    trainer.to_inference().save(output)
    session = nl.load(output)
    logits = session(data.test_x)
    accuracy = float(np.mean(logits.argmax(1) == data.test_y))
    print(
        f"{output.name} ({output.stat().st_size / 1024:.0f} KiB): accuracy {accuracy:.2%} on "
        f"{len(data.test_x)} held-back digits"
    )

    (expected,) = interpret(nl.with_states(graph, trainer.tensors()), {"x": data.test_x})
    distance = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    same = int(np.sum(logits.argmax(1) == expected.argmax(1)))
    print(
        f"agreement with the interpreter: relative L2 distance {distance:.1e}, {same} of "
        f"{len(expected)} classes equal"
    )
    return accuracy


if __name__ == "__main__":
    sys.exit(main())
