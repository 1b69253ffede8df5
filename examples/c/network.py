"""The network of the C examples: two classes of points in the plane, told apart by a small
multilayer perceptron.
"""

from __future__ import annotations

import netloom as nl


@nl.network
def points(x: nl.Symbolic) -> nl.Symbolic:
    """[n, 2] -> [n, 2]: a score for each class."""
    return nl.dense(nl.tanh(nl.dense(x, 16)), 2)


def graph() -> nl.TracedGraph:
    """The network for any number of points."""
    return points.graph(x=nl.tensor("N", 2))
