"""Values that need no memory of their own: parts of a concat that lie one behind the other in it,
values of another shape with the same elements in the same order, and slices whose elements lie one
behind the other in what they are taken from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TypeAlias

from ... import dim
from ...dim import Extent
from ...graph import Graph, Node, Value
from ...ops.data_dims import data_dim_of
from ...program import ALIGNMENT

# of values: the value that holds it, its first byte there
Places: TypeAlias = dict[Value, tuple[Value, int]]


@dataclass(frozen=True)
class Aliases:
    """The values of a graph that lie in others; what holds one may lie in another itself."""

    places: Mapping[Value, tuple[Value, int]]

    def whole(self, value: Value) -> tuple[Value, int]:
        """The value that holds this one and lies in no other, and the first byte in it."""
        offset = 0
        while value in self.places:
            value, more = self.places[value]
            offset += more
        return value, offset

    def parts_of(self, whole: Value) -> Sequence[Value]:
        """All values that lie in one that lies in no other."""
        return self._parts.get(whole, ())

    def in_input(self, node: Node) -> tuple[Value, int] | None:
        """Where a node's result lies in what the node reads, so that there is nothing to compute."""
        found = self.places.get(node.output)
        return found if found is not None and found[0] in node.inputs else None

    def has_parts_in(self, node: Node) -> bool:
        """Whether some inputs of a node are written right into its result."""
        return any(self.places.get(value, (None, 0))[0] is node.output for value in node.inputs)

    @cached_property
    def _parts(self) -> Mapping[Value, Sequence[Value]]:
        found: dict[Value, list[Value]] = {}
        for value in self.places:
            found.setdefault(self.whole(value)[0], []).append(value)
        return found


def find_aliases(
    graph: Graph, targets: Collection[Value], olds: Collection[Value], joins_in_place: bool
) -> Aliases:
    """``targets`` have places already; the memory of ``olds`` may change while they are still read
    under another name. ``joins_in_place``: whether a kernel may write or read a part of a slot."""
    kept = {*graph.results, *targets}
    places = _parts_of_concats(graph, kept) if joins_in_place else {}
    places |= _renamed(graph, {*targets, *places}, olds)
    if joins_in_place:
        places |= _taken_pieces(graph, kept, places)
    return Aliases(places)


def _parts_of_concats(graph: Graph, kept: Collection[Value]) -> Places:
    """Values that are written right into a concat that reads them. Of several concats it is the
    last one, which in networks that join ever more values holds the others."""
    found: Places = {}
    for node in reversed(graph.nodes):
        if node.op.name != "kernel" or node.output in kept:
            continue
        for value, offset in pieces_of(node):
            producer = graph.producers.get(value)
            is_free = value not in found and value not in kept
            if is_free and producer is not None and producer.op.name == "kernel":
                found[value] = (node.output, offset)
    return found


def _renamed(graph: Graph, placed: Collection[Value], olds: Collection[Value]) -> Places:
    """The results of reshapes that are left to memory, and of data dims, whose number lies where it
    was counted."""
    found: Places = {}
    for node in graph.nodes:
        is_dim = data_dim_of(node) is not None
        if (is_dim or is_renaming(node)) and node.output not in placed:
            (source,) = node.inputs
            if is_dim or source not in olds:
                found[node.output] = (source, 0)
    return found


def _taken_pieces(graph: Graph, kept: Collection[Value], placed: Collection[Value]) -> Places:
    """Slices that lie in what they are taken from. A kernel has made that in the arena, so neither
    is one of ``kept``; slices that are ``placed`` in others lie there."""
    found: Places = {}
    for node in graph.nodes:
        if not _is_slice(node) or node.output in kept or node.output in placed:
            continue
        producer = graph.producers.get(node.inputs[0])
        if producer is None or producer.op.name != "kernel" or is_renaming(producer):
            continue
        first = None if node.inputs[0] in kept else _first_byte(node)
        if first is not None:
            found[node.output] = (node.inputs[0], first)
    return found


def is_renaming(node: Node) -> bool:
    """Whether a node is a kernel that gives the elements of a value, all in their order, another
    shape.
    """
    if node.op.name != "kernel" or len(node.inputs) != 1:
        return False
    is_row_major = not node.inputs[0].layout and not node.output.layout
    return is_row_major and [inner.op.name for inner in node.attrs.body.nodes] == ["reshape"]


def _is_slice(node: Node) -> bool:
    return node.op.name == "kernel" and [n.op.name for n in node.attrs.body.nodes] == ["slice"]


def _first_byte(node: Node) -> int | None:
    """Where a slice begins in what it is taken from; None if its elements are no neighbours there,
    or begin where no buffer does."""
    (source,), out, attrs = node.inputs, node.output, node.attrs.body.nodes[0].attrs
    is_known = source.type.is_static and all(isinstance(at, int) for at in attrs.start)
    if not is_known or source.layout != out.layout or any(step != 1 for step in attrs.step):
        return None
    if source.layout is not None and source.layout.has_padding(source.shape):
        return None
    shape, taken = _shape_in_memory(source), _shape_in_memory(out)
    cut = next((axis for axis, size in enumerate(taken) if size != 1), len(taken))
    if taken[cut + 1 :] != shape[cut + 1 :]:
        return None
    start = source.layout.physical_index(attrs.start) if source.layout else attrs.start
    first = 0
    for axis, at in enumerate(start):
        first += at * prod(shape[axis + 1 :]) * out.dtype.bytes
    return first if first % ALIGNMENT == 0 else None


def pieces_of(node: Node) -> list[tuple[Value, int]]:
    """The inputs of a kernel that only puts them behind each other in memory, with their first
    bytes; else nothing.
    """
    body: Graph = node.attrs.body
    if len(body.nodes) != 1 or body.nodes[0].op.name != "concat":
        return []
    (concat,), out = body.nodes, node.output
    argument = dict(zip(body.inputs, node.inputs, strict=True))
    values = [argument[v] for v in concat.inputs]
    place = next(i for i, axis in enumerate(_axes_in_memory(out)) if axis == concat.attrs.axis)
    is_outermost = all(extent == 1 for extent in _shape_in_memory(out)[:place])
    if not is_outermost or any(
        v.layout != out.layout or (v.layout and v.layout.has_padding(v.shape)) for v in values
    ):
        return []
    pieces, offset = [], 0
    for value in values:
        pieces.append((value, offset))
        size = bytes_of(value)
        if not isinstance(size, int) or (size % ALIGNMENT and value is not values[-1]):
            return []
        offset += size
    return pieces


def _axes_in_memory(value: Value) -> Sequence[int]:
    return [part.axis for part in value.layout.parts] if value.layout else range(value.type.rank)


def _shape_in_memory(value: Value) -> tuple[Extent, ...]:
    return value.layout.physical_shape(value.shape) if value.layout else value.shape


def bytes_of(value: Value) -> Extent:
    """How many bytes a value takes, padding lanes and all."""
    return dim.product(_shape_in_memory(value)) * value.dtype.bytes
