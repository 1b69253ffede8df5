"""iterate(body, count) => count copies of the body: turns of a known number that nothing ends before.

For graphs that will be trained: a copy keeps what it has computed until its gradient is taken, which
no turn does. The copies share the body's constants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from ..graph import Builder, Graph, Node, Value, finish, rebuilder
from ..inline import inline
from ..ops.data_dims import as_symbol
from ..ops.iteration import ITERATE

MOST_NODES: Final = 1 << 17  # that one node becomes


def unroll_turns(graph: Graph) -> Graph:
    """The graph with copies in place of turns, also of those within bodies that become copies."""
    while any(map(_is_unrolled, graph.nodes)):  # once for each depth of bodies
        b, mapping = rebuilder(graph)
        for node in graph.nodes:
            inputs = [mapping[value] for value in node.inputs]
            made = _copies(b, node, inputs) if _is_unrolled(node) else b.copy(node, inputs)
            mapping.update(zip(node.outputs, made, strict=True))
        graph = finish(b, graph, mapping)
    return graph


def _is_unrolled(node: Node) -> bool:
    if node.op is not ITERATE or node.attrs.has_end:
        return False
    count = node.attrs.count
    return isinstance(count, int) and 0 < count * len(node.attrs.body.nodes) <= MOST_NODES


def _copies(b: Builder, node: Node, inputs: Sequence[Value]) -> list[Value]:
    """The node's outputs: what the last copy hands on, and the entries of all, stacked."""
    attrs, body = node.attrs, node.attrs.body
    symbol = as_symbol(attrs.turn)
    assert symbol is not None
    constants = [inner for inner in body.nodes if inner.op.name == "constant"]
    shared = [*inputs[attrs.handed_on :], *(b.copy(inner, [])[0] for inner in constants)]
    step = dataclasses.replace(
        body,
        inputs=(*body.inputs, *(inner.output for inner in constants)),
        nodes=tuple(inner for inner in body.nodes if inner.op.name != "constant"),
    )
    handed_on, entries = list(inputs[: attrs.handed_on]), []
    for turn in range(attrs.count):
        results = inline(b, step, [*handed_on, *shared], {symbol: turn})
        handed_on = list(results[: attrs.handed_on])
        entries.append(results[attrs.handed_on :])
    return [*handed_on, *(_stacked(b, node.label, parts) for parts in zip(*entries, strict=True))]


def _stacked(b: Builder, label: str, parts: Sequence[Value]) -> Value:
    """One entry of each turn along a new first axis."""
    rows = [b("reshape", part, shape=(1, *part.shape), label=label) for part in parts]
    return b("concat", *rows, axis=0, label=label) if len(rows) > 1 else rows[0]
