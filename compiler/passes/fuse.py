"""Fusion: nodes -> kernels. A kernel has at most one reduction, pointwise ops before it and elementwise ops behind it.

A value is inlined only where one node reads it, so nothing is computed twice; single numbers become literals. After this
pass the graph holds ``kernel`` nodes and ``constant`` nodes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netloom.errors import UnsupportedOpError

from ..graph import Builder, Graph, Node, Value, finish, rebuilder
from ..loops.build import has_loops, is_anchor
from ..op import OPS

INDEXED = frozenset({"gather", "gather_elements"})  # they read memory at computed indices: no formula takes its place
MOST_NODES = 24  # in one kernel: longer formulas only cost compile time


@dataclass(eq=False)
class _Group:
    """A kernel in the making; the last node makes its output."""

    nodes: list[Node]
    anchor: Node | None

    @property
    def last(self) -> Node:
        return self.nodes[-1]


def fuse(graph: Graph) -> Graph:
    """The graph as kernels."""
    groups = _groups(graph)
    b, mapping = rebuilder(graph)
    emitted = {group.last: group for group in groups.values()}
    for node in graph.nodes:
        if node.op.name == "constant":
            mapping[node.output] = b.copy(node, [])[0]
        elif node in emitted:
            mapping[node.output] = _kernel(b, graph, emitted[node], mapping)
    return finish(b, graph, mapping)


def _groups(graph: Graph) -> dict[Node, _Group]:
    results = set(graph.results)
    group_of: dict[Node, _Group] = {}
    for node in graph.nodes:
        if node.op.name == "constant":
            continue
        if not has_loops(node) or len(node.outputs) != 1:
            raise UnsupportedOpError(f"{node.op.name} has no loops", node=node.label)
        group = _Group([node], node if is_anchor(node) else None)
        for value in dict.fromkeys(node.inputs):
            producer = graph.producers.get(value)
            if producer is None or producer.op.name == "constant" or value in results or len(graph.users[value]) != 1:
                continue
            other = group_of[producer]
            if _may_join(other, group, node, value):
                group.nodes = [*other.nodes, *group.nodes]
                group.anchor = group.anchor or other.anchor
                for member in other.nodes:
                    group_of[member] = group
        group_of[node] = group
    return group_of


def _may_join(before: _Group, group: _Group, node: Node, value: Value) -> bool:
    """Whether the kernel that makes ``value`` may become part of the one that holds its only reader."""
    if len(before.nodes) + len(group.nodes) > MOST_NODES:
        return False
    if before.anchor is not None:  # an epilogue: the same element of everything
        is_epilogue = node.op.is_elementwise and group.anchor is None and node.output.shape == value.shape
        return is_epilogue and value.layout == node.output.layout
    if node.op.name in INDEXED or node.op.name in ("gather_gradient", "scatter", "scatter_source", "concat", "reorder"):
        return False
    if group.anchor is node:
        return node.op.family == "reduction" or (node.op.compute is not None and all(map(_keeps_rows, before.nodes)))
    return value.type.elements == node.output.type.elements or _is_cheap(before)


def _is_cheap(group: _Group) -> bool:
    """Whether it costs nothing to make the value anew for each element of a larger one."""
    return all(node.op.family == "shape" or node.op.name in ("cast", "iota", "extent") for node in group.nodes)


def _keeps_rows(node: Node) -> bool:
    """Whether a node only renames elements, and those next to each other along the last axis stay so."""
    match node.op.name:
        case "reshape":
            return True
        case "transpose":
            return bool(node.attrs.permutation[-1] == len(node.attrs.permutation) - 1)
        case "slice":
            return bool(node.attrs.step[-1] == 1)
    return False


def _kernel(b: Builder, graph: Graph, group: _Group, mapping: dict[Value, Value]) -> Value:
    """One kernel node, its body over as few inputs as it reads."""
    body = Builder("kernel")
    inner: dict[Value, Value] = {}
    arguments: list[Value] = []
    for node in group.nodes:
        for value in node.inputs:
            if value in inner:
                continue
            constant = graph.constant_of(value)
            is_number = constant is not None and constant.is_splat and node.op.name not in INDEXED
            if constant is not None and is_number and (constant.array.size == 1 or node.op.is_elementwise):
                inner[value] = body.add(OPS["constant"], [], OPS["constant"].attrs(constant), "", [value]).output
            else:
                inner[value] = Value(value.type, f"x{len(arguments)}", value.layout)
                body.inputs.append(inner[value])
                arguments.append(mapping[value])
        inner.update(zip(node.outputs, body.copy(node, [inner[v] for v in node.inputs]), strict=True))
    out = group.last.output
    record = OPS["kernel"]
    finished = body.build([inner[out]])
    label = next((n.label for n in _by_weight(group) if n.label), "")
    return b.add(record, arguments, record.attrs(finished), label, [Value(out.type, out.label, out.layout)]).output


def _by_weight(group: _Group) -> Sequence[Node]:
    return [group.anchor, *group.nodes] if group.anchor else group.nodes
