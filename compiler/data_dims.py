"""Where a graph's data dims come from, and how much room values need whose extents they decide.

A data dim is a symbol that a ``data_dim`` node binds while the program runs. Memory is planned for
its bound, so that places and sizes are known before the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from netloom.errors import UnsupportedOpError

from . import dim
from .dim import Extent, Symbol
from .graph import Graph, Node, nested_graphs
from .ops.data_dims import DATA_DIM, data_dim_of
from .ops.iteration import ITERATE, turn_of
from .verify import symbols_in


def data_dims(graph: Graph) -> dict[Symbol, Node]:
    """The nodes that bind data dims, by symbol, in the order of a run; those of turns are among
    them.
    """
    return {symbol: node for symbol, node in _bound(graph) if node.op is DATA_DIM}


def bounds_of(graph: Graph) -> dict[Symbol, Extent]:
    """The largest value of each data dim and of each number of a turn, over the free dims alone."""
    found: dict[Symbol, Extent] = {}
    for symbol, node in _bound(graph):
        is_turn = node.op is not DATA_DIM
        most = dim.maximum(node.attrs.count - 1, 0) if is_turn else node.attrs.bound
        found[symbol] = dim.largest(most, found)
    return found


def _bound(graph: Graph) -> Iterator[tuple[Symbol, Node]]:
    """The symbols that a run binds, with the nodes that do it, in the order of the run."""
    stack = list(reversed(graph.nodes))
    while stack:
        node = stack.pop()
        if (symbol := data_dim_of(node) or turn_of(node)) is not None:
            yield symbol, node
        if node.op is ITERATE:
            stack += reversed(node.attrs.body.nodes)


def symbols_needed(node: Node) -> frozenset[Symbol]:
    """All symbols in a node's attributes and results, and in graphs that it holds."""
    found: frozenset[Symbol] = frozenset()
    stack = [node]
    while stack:
        item = stack.pop()
        found |= symbols_in(item.attrs, *(value.type for value in item.outputs))
        stack += [inner for graph in nested_graphs(item) for inner in graph.nodes]
    return found


def room_for(extent: Extent, bounds: Mapping[Symbol, Extent], what: str) -> Extent:
    """The most that an extent can be; itself if no data dim decides it. UnsupportedOpError names
    ``what`` is so large if there is no bound.
    """
    try:
        return dim.largest(extent, bounds) if bounds else extent
    except ValueError as error:
        raise UnsupportedOpError(
            f"data decide its size, and {error}.", node=what, hint="Cut the model before it."
        ) from error
