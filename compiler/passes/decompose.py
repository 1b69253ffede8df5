"""Composed ops are replaced by the smaller ops that they mean, until every op has a loop form of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite


def decompose(graph: Graph) -> Graph:
    """The graph without ops that have a ``decompose`` but no ``compute``."""
    return rewrite(graph, _parts)


def _parts(rewriter: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.compute is not None or node.op.decompose is None:
        return None
    return node.op.decompose(rewriter, node)
