"""Fusion: nodes -> kernels. A kernel has at most one reduction, pointwise ops before it and elementwise ops behind it.

A value is inlined only where one kernel holds all its readers and they use the same element of it (``x * sigmoid(x)``), so
nothing is computed twice; views, which compute nothing, are made anew in each kernel that reads them. Single numbers become
literals. After this pass the graph holds ``kernel`` nodes and ``constant`` nodes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netloom.errors import UnsupportedOpError

from ..graph import Builder, Graph, Node, Value, finish, rebuilder
from ..loops.build import has_loops, is_anchor
from ..op import OPS

INDEXED = frozenset({"gather", "gather_elements"})  # they read memory at computed indices: no formula takes its place
SCATTERED = frozenset({"gather_gradient", "scatter", "scatter_source"})  # loops of their own
VIEWS = frozenset({"reshape", "transpose", "slice", "broadcast", "reorder"})  # other names of the elements of one value
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
    b, mapping = rebuilder(graph)
    emitted = _needed(graph, _groups(graph))
    for node in graph.nodes:
        if node.op.name == "constant":
            mapping[node.output] = b.copy(node, [])[0]
        elif node in emitted:
            mapping[node.output] = _kernel(b, graph, emitted[node], mapping)
    return finish(b, graph, mapping)


def _needed(graph: Graph, group_of: Mapping[Node, _Group]) -> dict[Node, _Group]:
    """The groups whose outputs are read, by their last nodes: a view that all its readers make anew is none."""
    found: dict[Node, _Group] = {}
    read = set(graph.results)
    for node in reversed(graph.nodes):
        if node in group_of and group_of[node].last is node and node.output in read:
            found[node] = group_of[node]
            made = {value for member in found[node].nodes for value in member.outputs}
            read.update(value for member in found[node].nodes for value in member.inputs if value not in made)
    return found


def _groups(graph: Graph) -> dict[Node, _Group]:
    results = frozenset(graph.results)
    group_of: dict[Node, _Group] = {}
    for node in graph.nodes:
        if node.op.name == "constant":
            continue
        if not has_loops(node) or len(node.outputs) != 1:
            raise UnsupportedOpError(f"{node.op.name} has no loops", node=node.label)
        group = group_of[node] = _Group([node], node if is_anchor(node) else None)
        while value := _next_inlined(graph, group, group_of, results):
            other = group_of[graph.producers[value]]
            group.nodes = list(dict.fromkeys((*other.nodes, *group.nodes)))
            group.anchor = group.anchor or other.anchor
            if all(group_of.get(reader) is group for reader in graph.users[value]):
                group_of.update((member, group) for member in other.nodes if group_of[member] is other)
    return group_of


def _next_inlined(
    graph: Graph, group: _Group, group_of: Mapping[Node, _Group], results: frozenset[Value]
) -> Value | None:
    """A value that the group reads and may compute itself."""
    members = set(group.nodes)
    for value in dict.fromkeys(value for node in reversed(group.nodes) for value in node.inputs):
        producer = graph.producers.get(value)
        if producer is None or producer in members or producer.op.name == "constant" or value in results:
            continue
        readers, before = graph.users[value], group_of[producer]
        is_last = all(group_of.get(reader) is group for reader in readers)
        if not is_last and not (_is_view(before) and all(map(_takes_views, readers))):
            continue
        if _may_join(before, group, [reader for reader in readers if reader in members], value):
            return value
    return None


def _is_view(group: _Group) -> bool:
    return all(node.op.name in VIEWS for node in group.nodes)


def _takes_views(node: Node) -> bool:
    """Whether a kernel that computes the node can make a view of what it reads itself."""
    return not is_anchor(node) and node.op.name not in INDEXED | SCATTERED


def _may_join(before: _Group, group: _Group, readers: Sequence[Node], value: Value) -> bool:
    """Whether the kernel that makes ``value`` may become part of the one that holds all its readers."""
    if len(before.nodes) + len(group.nodes) > MOST_NODES:
        return False
    if before.anchor is not None:  # an epilogue: the same element of everything
        return group.anchor is None and _uses_same_element(group, readers, value)
    if any(node.op.name in INDEXED | SCATTERED for node in readers):
        return False
    if any(node.op.name in ("concat", "reorder") for node in readers) and not _is_cheap(before):
        return False
    if len(set(readers)) > 1:
        is_term = group.anchor is group.last and group.anchor.op.family == "reduction"
        return (is_term or group.anchor is None) and _uses_same_element(group, readers, value)
    reader = readers[0]
    if group.anchor is reader:
        takes_rows = reader.op.compute is not None or reader.op.family == "attention"
        return reader.op.family == "reduction" or (takes_rows and all(map(_keeps_rows, before.nodes)))
    return value.type.elements == reader.output.type.elements or _is_cheap(before)


def _uses_same_element(group: _Group, readers: Sequence[Node], value: Value) -> bool:
    """Whether everything that the group makes of ``value`` is made element by element (up to its anchor, if any)."""
    reached = {value}
    for node in group.nodes:
        if reached.isdisjoint(node.inputs) or node is group.anchor:
            continue
        out = node.output
        if not node.op.is_elementwise or out.shape != value.shape or out.layout != value.layout:
            return False
        reached.add(out)
    return group.anchor not in readers


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
