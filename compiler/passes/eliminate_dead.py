"""Nodes that no output and no state needs are removed; everything else stays as it is."""

from __future__ import annotations

from ..graph import Graph
from ..rewrite import without_dead_nodes


def eliminate_dead(graph: Graph) -> Graph:
    """The graph without dead nodes. Inputs and states stay, used or not: they are the graph's
    face.
    """
    return without_dead_nodes(graph)
