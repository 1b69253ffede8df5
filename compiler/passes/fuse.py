"""Fusion: nodes -> kernels.

A kernel has at most one reduction, pointwise ops before it and elementwise ops behind it; or it
reduces rows, several times and for all their elements (``loops/row_form.py`` says what it may then
hold).

A value is inlined only where one kernel holds all its readers and they use the same element of it
(``x * sigmoid(x)``), so nothing is computed twice; views, which compute nothing, are made anew in
each kernel that reads them. So are wide numbers that a few additions and products make of narrow
ones, as dequantization does: where kernels meet, the narrow ones are what lies in memory. A reshape
without a formula stays alone: plan_memory.py gives it no code. Single numbers become literals.
After this pass the graph holds ``kernel``, ``constant``, ``data_dim`` and ``iterate`` nodes only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from netloom.errors import UnsupportedOpError

from .. import scalar
from ..graph import Builder, Graph, Node, Value, finish, rebuilder
from ..loops.build import has_loops, is_anchor
from ..loops.row_form import row_form
from ..loops.unrolling import is_long
from ..op import OPS
from ..ops.convolution import is_depthwise
from ..ops.data_dims import DATA_DIM
from ..ops.iteration import ITERATE
from ..ops.views import divides_by_free_dims
from .layouts.right_operands import has_lanes_along_sum

# they read memory at computed indices: no formula takes its place
INDEXED = frozenset({"gather", "gather_elements"})
# they read each element once, at its place
TAKEN_ONCE = frozenset({"scatter", "scatter_last", "scatter_source"})
SCATTERED = TAKEN_ONCE | {"gather_gradient"}  # loops of their own
# they read again what they have stored, or store it again: no epilogue changes it
REREAD = TAKEN_ONCE | {"suppress", "merge_sort", "true_positions", "first_places"}
PAIRED = frozenset({"sort_positions"})  # they read an element for each other one: it is made once
# other names of the elements of one value
VIEWS = frozenset({"reshape", "transpose", "slice", "broadcast", "reorder"})
ALONE = frozenset({DATA_DIM, ITERATE})  # no kernels: the run binds their symbols
WIDENING = frozenset({"cast", "add", "sub", "mul"})
MOST_WIDENING = 4  # nodes that are made anew: cast, sub, cast, mul
MOST_NODES = 24  # in one kernel: longer formulas only cost compile time


@dataclass(eq=False)
class _Group:
    """A kernel in the making; the last node makes its output. ``is_rows``: its reductions are those
    of rows."""

    nodes: list[Node]
    anchor: Node | None
    is_rows: bool = False

    @property
    def last(self) -> Node:
        return self.nodes[-1]


def fuse(graph: Graph, has_rows: bool = True) -> Graph:
    """The graph as kernels; ``has_rows``: the target has kernels that reduce rows."""
    b, mapping = rebuilder(graph)
    fusion = _Fusion(graph, has_rows)
    fusion.run()
    emitted = fusion.needed()
    for node in graph.nodes:
        if node.op.name == "constant":
            mapping[node.output] = b.copy(node, [])[0]
        elif node.op in ALONE:
            made = b.copy(node, [mapping[value] for value in node.inputs])
            mapping.update(zip(node.outputs, made, strict=True))
        elif node in emitted:
            mapping[node.output] = _kernel(b, graph, emitted[node], mapping)
    return finish(b, graph, mapping)


class _Fusion:
    """Which nodes go into one kernel: each has a group."""

    def __init__(self, graph: Graph, has_rows: bool) -> None:
        self.graph, self.has_rows = graph, has_rows
        self.results = frozenset(graph.results)
        self.group_of: dict[Node, _Group] = {}

    def run(self) -> None:
        """Groups of all nodes, in their order."""
        for node in self.graph.nodes:
            if node.op.name == "constant" or node.op in ALONE:
                continue
            if not has_loops(node) or len(node.outputs) != 1:
                raise UnsupportedOpError(f"{node.op.name} has no loops", node=node.label)
            group = self.group_of[node] = _Group([node], node if is_anchor(node) else None)
            while value := self._next_inlined(group):
                self._join(group, value)
        for group in self.needed().values():  # wide numbers that are stored after all
            while self._is_widening(group) and (value := self._next_inlined(group, is_stored=True)):
                self._join(group, value)

    def needed(self) -> dict[Node, _Group]:
        """The groups whose outputs are read, by their last nodes: a view that all its readers make
        anew is none.
        """
        found: dict[Node, _Group] = {}
        read = set(self.results)
        read.update(value for node in self.graph.nodes if node.op in ALONE for value in node.inputs)
        for node in reversed(self.graph.nodes):
            group = self.group_of.get(node)
            if group is not None and group.last is node and node.output in read:
                found[node] = group
                made = {value for member in group.nodes for value in member.outputs}
                read.update(
                    value for member in group.nodes for value in member.inputs if value not in made
                )
        return found

    def _join(self, group: _Group, value: Value) -> None:
        """The group makes a value that it reads itself."""
        other = self.group_of[self.graph.producers[value]]
        group.is_rows = not _joins_one_anchor(other, group, self._readers(group, value), value)
        group.nodes = list(dict.fromkeys((*other.nodes, *group.nodes)))
        group.anchor = group.anchor or other.anchor
        if self._is_last(group, value):
            for member in other.nodes:
                if self.group_of[member] is other:
                    self.group_of[member] = group

    def _next_inlined(self, group: _Group, is_stored: bool = False) -> Value | None:
        """A value that the group reads and may compute itself; ``is_stored``: wide numbers that the
        group makes of narrow ones are for sure."""
        keeps_source = not is_stored and self._is_widening(group)
        for value in self._read(group):
            before = self.group_of[self.graph.producers[value]]
            if not self._is_last(group, value) and not self._is_made_anew(before, value):
                continue
            if keeps_source and not (_is_view(before) or self._is_widening(before)):
                continue
            together = (*before.nodes, *group.nodes)
            if len(together) > MOST_NODES or any(map(_has_no_formula, together)):
                continue
            if _joins_one_anchor(before, group, self._readers(group, value), value):
                return value
            if self.has_rows and self._joins_rows(before, group):
                return value
        return None

    def _read(self, group: _Group) -> Iterator[Value]:
        """What the group reads of other kernels and nobody outside the graph does, the last first."""
        members = set(group.nodes)
        for value in dict.fromkeys(each for node in reversed(group.nodes) for each in node.inputs):
            producer = self.graph.producers.get(value)
            if producer in self.group_of and producer not in members and value not in self.results:
                yield value

    def _readers(self, group: _Group, value: Value) -> Sequence[Node]:
        members = set(group.nodes)
        return [reader for reader in self.graph.users[value] if reader in members]

    def _is_last(self, group: _Group, value: Value) -> bool:
        """Whether nobody else reads the value."""
        return all(self.group_of.get(reader) is group for reader in self.graph.users[value])

    def _is_made_anew(self, group: _Group, value: Value) -> bool:
        """Whether each reader of a value makes it for itself."""
        readers = self.graph.users[value]
        if _is_view(group) and all(map(_takes_views, readers)):
            return True
        return self._is_widening(group) and all(_takes_widened(node, value) for node in readers)

    def _is_widening(self, group: _Group) -> bool:
        """Whether a group makes wide numbers of narrow ones with few instructions."""
        first, last = group.nodes[0], group.last
        if len(group.nodes) > MOST_WIDENING or first.op.name != "cast":
            return False
        if first.inputs[0].dtype.bytes >= last.output.dtype.bytes:
            return False
        inner = {node.output for node in group.nodes}
        return all(node.op.name in WIDENING for node in group.nodes) and all(
            value in inner or self.graph.constant_of(value) is not None
            for node in group.nodes[1:]
            for value in node.inputs
        )

    def _joins_rows(self, before: _Group, group: _Group) -> bool:
        """Whether two kernels together are one that reduces rows, several times or for all their
        elements.
        """
        anchors = [part.anchor for part in (before, group) if part.anchor is not None]
        if not anchors or any(anchor.op.family != "reduction" for anchor in anchors):
            return False
        nodes = dict.fromkeys((*before.nodes, *group.nodes))
        return row_form(_body(self.graph, list(nodes))[0]) is not None


def _takes_widened(node: Node, value: Value) -> bool:
    """Whether a kernel that computes the node can make such a number for each element that it
    reads."""
    if node.op.is_elementwise:
        return node.output.shape == value.shape and node.output.layout == value.layout
    return node.op.family == "reduction"


def _is_view(group: _Group) -> bool:
    return all(node.op.name in VIEWS for node in group.nodes)


def _takes_views(node: Node) -> bool:
    """Whether a kernel that computes the node can make a view of what it reads itself."""
    if node.op in ALONE:
        return False
    return not is_anchor(node) and node.op.name not in INDEXED | SCATTERED


def _joins_one_anchor(before: _Group, group: _Group, readers: Sequence[Node], value: Value) -> bool:
    """Whether two kernels together have one anchor, nodes before it and an epilogue."""
    if before.is_rows or group.is_rows:
        return False
    if before.anchor is not None:  # an epilogue: the same element of everything
        if before.anchor.op.name in REREAD or group.anchor is not None:
            return False
        if _has_one_lane(before.anchor) and any(map(_is_costly, group.nodes)):
            return False
        return _uses_same_element(group, readers, value)
    if any(node.op.name in TAKEN_ONCE for node in readers):
        return len(readers) == 1 and all(
            node.op.name in VIEWS or node.op.name == "cast" for node in before.nodes
        )
    if any(node.op.name in INDEXED | SCATTERED for node in readers):
        return False
    if any(node.op.name in ("concat", "reorder") for node in readers) and not _is_cheap(before):
        return False
    if len(readers) > 1:
        is_term = group.anchor is group.last and group.anchor.op.family == "reduction"
        return (is_term or group.anchor is None) and _uses_same_element(group, readers, value)
    reader = readers[0]
    if reader.op.name in PAIRED:
        return _is_view(before)
    if group.anchor is reader:
        takes_rows = reader.op.compute is not None or reader.op.family == "attention"
        if _is_depthwise(reader) and all(node.op.name == "cast" for node in before.nodes):
            return True
        return reader.op.family == "reduction" or (
            takes_rows and all(map(_keeps_rows, before.nodes))
        )
    return value.type.elements == reader.output.type.elements or _is_cheap(before)


def _has_one_lane(anchor: Node) -> bool:
    """Whether what follows a sum is computed for one result at a time."""
    return anchor.op.name == "matmul" and has_lanes_along_sum(anchor)


def _is_costly(node: Node) -> bool:
    """Whether an elementwise op takes as long for one lane as tens of instructions for a vector."""
    if node.op.formula is None:
        return False
    inputs = (scalar.Argument(place, value.dtype) for place, value in enumerate(node.inputs))
    return is_long(node.op.formula(node.attrs, *inputs))


def _has_no_formula(node: Node) -> bool:
    return node.op.name == "reshape" and divides_by_free_dims(
        node.inputs[0].shape, node.output.shape
    )


def _uses_same_element(group: _Group, readers: Sequence[Node], value: Value) -> bool:
    """Whether everything that the group makes of ``value`` is made element by element (up to its
    anchor, if any).
    """
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
    return all(
        node.op.family == "shape" or node.op.name in ("cast", "iota", "extent")
        for node in group.nodes
    )


def _is_depthwise(node: Node) -> bool:
    """Whether a convolution meets an element of its input with one filter only, so that bytes
    which it reads cost less than the numbers that they become."""
    return node.op.name == "conv" and is_depthwise(node.inputs[1].type, node.attrs.groups)


def _keeps_rows(node: Node) -> bool:
    """Whether a node only renames elements, and those next to each other along the last axis
    stay so.
    """
    match node.op.name:
        case "reshape":
            return True
        case "transpose":
            return bool(node.attrs.permutation[-1] == len(node.attrs.permutation) - 1)
        case "slice":
            return bool(node.attrs.step[-1] == 1)
    return False


def _kernel(b: Builder, graph: Graph, group: _Group, mapping: dict[Value, Value]) -> Value:
    """One kernel node."""
    finished, arguments = _body(graph, group.nodes)
    out = group.last.output
    record = OPS["kernel"]
    label = next((n.label for n in _by_weight(group) if n.label), "")
    inputs = [mapping[value] for value in arguments]
    made = Value(out.type, out.label, out.layout)
    return b.add(record, inputs, record.attrs(finished), label, [made]).output


def _body(graph: Graph, nodes: Sequence[Node]) -> tuple[Graph, list[Value]]:
    """(what the nodes compute for the last of them, over as few inputs as they read, the values
    that those are)"""
    body = Builder("kernel")
    inner: dict[Value, Value] = {}
    arguments: list[Value] = []
    for node in nodes:
        for value in node.inputs:
            if value in inner:
                continue
            constant = graph.constant_of(value)
            if (
                constant is not None
                and constant.is_splat
                and node.op.name not in INDEXED
                and (constant.array.size == 1 or node.op.is_elementwise)
            ):
                inner[value] = body.add(
                    OPS["constant"], [], OPS["constant"].attrs(constant), "", [value]
                ).output
            else:
                inner[value] = Value(value.type, f"x{len(arguments)}", value.layout)
                body.inputs.append(inner[value])
                arguments.append(value)
        inner.update(
            zip(node.outputs, body.copy(node, [inner[v] for v in node.inputs]), strict=True)
        )
    return body.build([inner[nodes[-1].output]]), arguments


def _by_weight(group: _Group) -> Sequence[Node]:
    return [group.anchor, *group.nodes] if group.anchor else group.nodes
