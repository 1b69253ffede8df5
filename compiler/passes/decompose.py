"""Composed ops are replaced by the smaller ops that they mean, until every op has a loop form of
its own. Means, norms and softmax of short floats are of float32 then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite
from .widen_means import widened

OF_CPUS: Final = ("scatter_last",)  # they have loops for these


def decompose(graph: Graph, kept: Collection[str] = OF_CPUS) -> Graph:
    """The graph without ops that have a ``decompose`` but no ``compute``, but for those that are
    ``kept``: a target's strategies or loops compute them."""
    return rewrite(graph, partial(_parts, kept))


def _parts(kept: Collection[str], rewriter: Rewriter, node: Node) -> Sequence[Value] | None:
    if (wide := widened(rewriter, node)) is not None:
        return wide
    if node.op.compute is not None or node.op.decompose is None or node.op.name in kept:
        return None
    return node.op.decompose(rewriter, node)
