"""Until when values are read, and which nodes come before another whatever the order of a run.

The second is for devices, which may run branches of a network at once: a slot that a branch has
given back is used again only by a node that needs all who wrote and read it, so that memory orders
nothing that data do not. Sets of nodes are integers there, a bit for each position in the graph.
"""

from __future__ import annotations

from ...graph import Graph, Value
from .aliases import Aliases

ANYTHING = -1  # the set of all nodes


class Lifetimes:
    """Of the values of a graph; what holds others lives as long as they do. ``keeps_branches_apart``:
    whether slots may not order branches."""

    def __init__(self, graph: Graph, aliases: Aliases, keeps_branches_apart: bool) -> None:
        self._graph, self._aliases = graph, aliases
        self._last_use = _last_uses(graph, aliases)
        self._behind = _ancestors(graph) if keeps_branches_apart else None
        self._positions = {node: position for position, node in enumerate(graph.nodes)}

    def is_used(self, value: Value) -> bool:
        """Whether a node reads a value, or it is a result."""
        return value in self._last_use

    def ends(self, value: Value, position: int) -> bool:
        """Whether nobody needs a value behind the node at a position."""
        return self._last_use.get(value, position) <= position

    def before(self, value: Value) -> int:
        """The nodes that have ended whenever the value is written."""
        return ANYTHING if self._behind is None else self._behind[value]

    def users(self, value: Value) -> int:
        """The nodes that write and read a value or a part of it, as far as that matters."""
        if self._behind is None:
            return 0
        graph, found = self._graph, 0
        for held in (value, *self._aliases.parts_of(value)):
            for node in (graph.producers[held], *graph.users.get(held, ())):
                found |= 1 << self._positions[node]
        return found


def _last_uses(graph: Graph, aliases: Aliases) -> dict[Value, int]:
    """The position of the last node that reads a value; results are needed behind all nodes."""
    found = {value: len(graph.nodes) for value in graph.results}
    for position, node in enumerate(graph.nodes):
        for value in node.inputs:
            found[value] = max(found.get(value, 0), position)
    for value in aliases.places:
        whole, _ = aliases.whole(value)
        found[whole] = max(found[whole], found.get(value, 0))
    return found


def _ancestors(graph: Graph) -> dict[Value, int]:
    """All nodes that a value needs, its own not among them."""
    found: dict[Value, int] = {}
    own: dict[Value, int] = {}
    for position, node in enumerate(graph.nodes):
        before = 0
        for value in node.inputs:
            before |= found.get(value, 0) | own.get(value, 0)
        for value in node.outputs:
            found[value], own[value] = before, 1 << position
    return found
