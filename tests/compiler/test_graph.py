"""A graph as networkx sees it."""

from __future__ import annotations

import networkx

from netloom.compiler.graph import Builder
from netloom.compiler.tensor_type import FLOAT32, TensorType


def test_nodes_are_vertices_and_values_are_edges() -> None:
    """An edge for each input of a node that another node makes, and its position as the key."""
    b = Builder()
    x = b.input(TensorType(FLOAT32, (2,)), "x")
    left = b("exp", x)
    graph = b.build([b("sub", b("neg", left), left), b("mul", left, left)])
    exp, neg, sub, mul = graph.nodes
    found = graph.as_networkx()
    assert set(found.edges(keys=True)) == {(exp, neg, 0), (neg, sub, 0), (exp, sub, 1),
                                           (exp, mul, 0), (exp, mul, 1)}  # fmt: skip
    assert found.edges[exp, sub, 1]["value"] is left
    assert networkx.ancestors(found, sub) == {exp, neg}
