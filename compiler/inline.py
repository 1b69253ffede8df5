"""A graph's nodes in another graph. Its data dims and turns get names of their own there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from .dim import Extent, Symbol
from .graph import Builder, Graph, Value, map_extents
from .ops.data_dims import data_dim_of
from .ops.iteration import turn_of


def inline(
    b: Builder,
    graph: Graph,
    arguments: Sequence[Value],
    renamed: Mapping[Symbol, Extent] | None = None,
) -> tuple[Value, ...]:
    """Add all nodes of a stateless graph, its inputs replaced; returns its outputs there.
    ``renamed``: what symbols of graphs around it become.
    """
    mapping = dict(zip(graph.inputs, arguments, strict=True))
    becomes = dict(renamed or {})
    for node in graph.nodes:
        turn = turn_of(node)
        if (born := data_dim_of(node)) is not None:
            becomes[born] = b.new_data_dim(born.name, node.attrs.bound)
        if turn is not None:
            becomes[turn] = b.new_data_dim(turn.name, node.attrs.count)
        attrs = map_extents(node.attrs, becomes) if becomes else node.attrs
        if turn is not None:
            attrs = dataclasses.replace(attrs, body=_nested(b, attrs.body, becomes))
        inputs = [mapping[v] for v in node.inputs]
        copy = b.add(node.op, inputs, attrs, node.label, node.outputs)
        mapping.update(zip(node.outputs, copy.outputs, strict=True))
    return tuple(mapping[v] for v in graph.outputs)


def _nested(outer: Builder, graph: Graph, renamed: Mapping[Symbol, Extent]) -> Graph:
    """The body of a node that is being inlined. Bodies hold each other a few times only."""
    b = Builder(graph.name, outer)
    inputs = [b.input(v.type.substitute(renamed), v.label) for v in graph.inputs]
    return b.build(inline(b, graph, inputs, renamed), graph.output_names)
