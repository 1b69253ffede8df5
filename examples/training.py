"""Train a network written in Python, with a layer, a loss and a schedule of one's own, and save it
as a shared object.

    python examples/training.py [--epochs 30] [--output spiral.so]

The task: which arm of a double spiral a point of the plane lies on. Prints the loss as it falls and
the accuracy on new points before and after the way through the shared object; exits with 1 if it is
below 95 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

import netloom as nl

TARGET = 0.95
BATCH = 50


def gated(x: nl.Symbolic, units: int) -> nl.Symbolic:
    """A layer of one's own: two dense layers, one of which decides how much of the other passes."""
    return nl.tanh(nl.dense(x, units)) * nl.sigmoid(nl.dense(x, units))


@nl.network
def spiral(x: nl.Symbolic) -> nl.Symbolic:
    """[n, 2] -> [n, 1]: above 0 for the second arm."""
    return nl.dense(gated(gated(x, 32), 32), 1)


def squared_hinge(score: nl.Symbolic, side: nl.Symbolic) -> nl.Symbolic:
    """A loss of one's own: any function of two symbolic values; the side is -1 or 1."""
    return nl.reduce_mean(nl.square(nl.maximum(1.0 - side * score, 0.0)))


def points(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Points on two arms that wind around each other, and the side (-1 or 1) of each: [n, 2],
    [n, 1].
    """
    generator = np.random.default_rng(seed)
    radius = np.sqrt(generator.uniform(0.05, 1, count))
    side = generator.choice([-1.0, 1.0], count)
    angle = 5 * radius
    x = (side * radius * np.stack([np.cos(angle), np.sin(angle)])).T + generator.normal(
        0, 0.02, (count, 2)
    )
    return x.astype(np.float32), side[:, None].astype(np.float32)


def is_right(score: npt.NDArray[np.float32], side: npt.NDArray[np.float32]) -> float:
    """The share of points on the right side."""
    return float(np.mean(score * side > 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--output", type=Path, help="where to keep the shared object (default: a temporary folder)"
    )
    arguments = parser.parse_args()
    data, held_back = points(2000, seed=0), points(500, seed=1)
    rate = nl.optimizers.Warmup(
        50, nl.optimizers.CosineDecay(2e-2, steps=arguments.epochs * len(data[0]) // BATCH)
    )
    graph = spiral.graph(x=nl.tensor("N", 2))
    trainer = nl.compile_training(graph, loss=squared_hinge, optimizer=nl.optimizers.AdamW(rate))
    history = trainer.fit(
        data, epochs=arguments.epochs, batch=BATCH, validation=held_back, metric=is_right
    )
    for record in history[:: max(1, len(history) // 5)]:
        print(
            f"epoch {record['epoch'] + 1:3}  loss {record['loss']:.4f}  held back {record['validation']:.2%}"
        )
    with tempfile.TemporaryDirectory() as folder:
        output = arguments.output or Path(folder) / "spiral.so"
        trainer.to_inference().save(output)
        accuracy = is_right(nl.load(output)(held_back[0]), held_back[1])
    print(
        f"accuracy {history[-1]['validation']:.2%} from the trainer, {accuracy:.2%} from the shared object"
    )
    return 0 if accuracy == history[-1]["validation"] >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
