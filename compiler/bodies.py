"""A pass over a graph is one over the bodies of its turns too: each is a graph of its own.

What a body reads from outside becomes its own where it is a constant, so that passes fold and pack
it; what it does not read any more is no input of its node.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from .graph import Builder, Graph, Node, Value, born_dims, finish, rebuilder
from .inline import inline
from .op import OPS
from .ops.iteration import ITERATE


def in_bodies(graph: Graph, function: Callable[[Graph], Graph]) -> Graph:
    """The graph after a pass over the bodies of its turns, and then over itself."""
    if not any(node.op is ITERATE for node in graph.nodes):
        return function(graph)
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        inputs = [mapping[value] for value in node.inputs]
        if node.op is ITERATE:
            made = _with_body(b, graph, node, inputs, function)
        else:
            made = b.copy(node, inputs)
        mapping.update(zip(node.outputs, made, strict=True))
    return _with_own_names(function(finish(b, graph, mapping)))


def kernel_at(graph: Graph, place: Sequence[int]) -> Node | None:
    """The kernel that a launch runs, by ``Launch.node``; None: a copy."""
    found = None
    for number in place:
        found = (found.attrs.body if found is not None else graph).nodes[number]
    return found


def _with_body(
    b: Builder, graph: Graph, node: Node, inputs: list[Value], function: Callable[[Graph], Graph]
) -> tuple[Value, ...]:
    """The node with another body."""
    handed_on, body = node.attrs.handed_on, _with_constants(graph, node)
    body = in_bodies(body, function)
    read = {value for inner in body.nodes for value in inner.inputs} | {*body.outputs}
    pairs = [
        (inside, outside)
        for position, (inside, outside) in enumerate(zip(body.inputs, inputs, strict=True))
        if position < handed_on or inside in read
    ]
    body = dataclasses.replace(body, inputs=tuple(inside for inside, _ in pairs))
    attrs = dataclasses.replace(node.attrs, body=body)
    return b.add(ITERATE, [value for _, value in pairs], attrs, node.label, node.outputs).outputs


def _with_constants(graph: Graph, node: Node) -> Graph:
    """The body with constants from outside inside; their inputs stay, and nobody reads them."""
    body: Graph = node.attrs.body
    shared = list(zip(body.inputs, node.inputs, strict=True))[node.attrs.handed_on :]
    known = [(inside, graph.constant_of(outside)) for inside, outside in shared]
    if all(constant is None for _, constant in known):
        return body
    b, mapping = rebuilder(body)
    for inside, constant in known:
        if constant is not None:
            attrs = OPS["constant"].attrs(constant)
            mapping[inside] = b.add(OPS["constant"], [], attrs, inside.label).output
    for inner in body.nodes:
        made = b.copy(inner, [mapping[value] for value in inner.inputs])
        mapping.update(zip(inner.outputs, made, strict=True))
    return finish(b, body, mapping)


def _with_own_names(graph: Graph) -> Graph:
    """Passes over different bodies may make dims of one name: each gets its own."""
    names = Counter(symbol.name for symbol in born_dims(graph.nodes))
    if all(count == 1 for count in names.values()):
        return graph
    b, mapping = rebuilder(graph)
    results = (*graph.outputs, *(state.output for state in graph.states))
    without_states = Graph(graph.name, graph.sources, graph.nodes, results, ())
    mapping.update(zip(results, inline(b, without_states, graph.sources), strict=True))
    return finish(b, graph, mapping)
