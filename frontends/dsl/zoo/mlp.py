"""A multilayer perceptron: dense layers with an activation between them."""

from __future__ import annotations

from collections.abc import Sequence

from ..functions import relu
from ..initializers import Initializer
from ..layers import dense
from ..network import TracedGraph, network
from ..trace import Symbolic, tensor


@network
def perceptron(x: Symbolic, hidden: Sequence[int] = (128,), classes: int = 10) -> Symbolic:
    """[n, features] -> [n, classes]."""
    for units in hidden:
        x = relu(dense(x, units))
    return dense(x, classes)


def mlp(
    features: int = 784, hidden: Sequence[int] = (128,), classes: int = 10, batch: int | str = "N", *, seed: int = 0,
    training: bool = False, initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """A perceptron with ReLU after each hidden layer."""
    model = perceptron.with_options(hidden=tuple(hidden), classes=classes).named("mlp")
    return model.graph(
        x=tensor(batch, features), training=training, seed=seed, initializer=initializer
    )
