"""Conditions that are computed from a free dim alone: from which number of it on they are decided."""

from __future__ import annotations

from typing import Final

from netloom.compiler.dim import Symbol
from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.verify import symbols_in

from .context import Context

LARGEST_TRIED: Final = 256  # of a free dim
MOST_NODES: Final = 64  # that a condition is computed by


def decided_from(context: Context, condition: Value) -> tuple[Symbol, int] | None:
    """The only free dim that a bool is computed from, and the number from which on it is the same for
    all numbers that are tried; None if there is no such number among the first half of these, or if
    anything else decides it.
    """
    nodes = _nodes_of(context, condition)
    if nodes is None:
        return None
    symbols = {symbol for node in nodes for symbol in symbols_in(node.attrs)}
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    if not isinstance(symbol.lo, int):
        return None
    graph = Graph("condition", (), tuple(nodes), (condition,), ("holds",), ())
    tried = range(max(symbol.lo, 0), LARGEST_TRIED + 1)
    holds = [bool(interpret(graph, {}, symbols={symbol: number})[0]) for number in tried]
    last = next((n for n, h in zip(tried[::-1], holds[::-1], strict=True) if h != holds[-1]), None)
    return (symbol, last + 1) if last is not None and 2 * last < LARGEST_TRIED else None


def _nodes_of(context: Context, value: Value) -> list[Node] | None:
    """What a value is computed by, in order; None if inputs or data dims are part of it."""
    builder: Builder | None = context.builder
    producers: dict[Value, tuple[int, Node]] = {}
    while builder is not None:
        for node in builder.nodes:
            producers.update(dict.fromkeys(node.outputs, (len(producers), node)))
        builder = builder.outer
    found: dict[Node, int] = {}
    waiting = [value]
    while waiting and len(found) <= MOST_NODES:
        if (made := producers.get(waiting.pop())) is None or made[1].op.name == "data_dim":
            return None
        place, node = made
        if node not in found:
            found[node] = place
            waiting += node.inputs
    return None if waiting else sorted(found, key=lambda node: found[node])
