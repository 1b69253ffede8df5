"""Where slices of a kernel's inputs start is left to the launch: slices that differ only there are
one kernel, over memory that begins elsewhere.

slice(x, start)[i] = slice(x from element s on, start - first)[i], where s = sum first_axis stride_axis
and ``first`` is the least start of all slices of x along each axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ... import dim
from ...dim import Extent
from ...graph import Graph, Node, Value, finish, rebuilder


def without_starts(body: Graph, may_move: Callable[[int], bool]) -> tuple[Graph, list[Extent]]:
    """The body over inputs that begin where the first of their slices does, and the number of that
    element for each input; ``may_move``: whether the memory of an input may begin elsewhere.
    """
    firsts = {
        x: first
        for number, x in enumerate(body.inputs)
        if may_move(number) and (first := _first(x, _readers(body, x), body))
    }
    if not firsts:
        return body, [0] * len(body.inputs)
    b, mapping = rebuilder(body)
    for node in body.nodes:
        inputs = [mapping[value] for value in node.inputs]
        first = firsts.get(node.inputs[0]) if node.inputs else None
        attrs = node.attrs
        if first is not None:
            start = tuple(at - less for at, less in zip(attrs.start, first, strict=True))
            attrs = dataclasses.replace(attrs, start=start)
        made = b.add(node.op, inputs, attrs, node.label, node.outputs).outputs
        mapping.update(zip(node.outputs, made, strict=True))
    return finish(b, body, mapping), [_element(x, firsts.get(x)) for x in body.inputs]


def _readers(body: Graph, x: Value) -> Sequence[Node]:
    return body.users.get(x, ())


def _first(x: Value, readers: Sequence[Node], body: Graph) -> tuple[int, ...] | None:
    """The least start of all slices that read an input, if nothing else does."""
    if x.layout is not None or not readers or x in body.outputs:
        return None
    starts = []
    for node in readers:
        if node.op.name != "slice" or any(step < 1 for step in node.attrs.step):
            return None
        starts.append([at if isinstance(at, int) else 0 for at in node.attrs.start])
    first = tuple(map(min, zip(*starts, strict=True)))
    return first if any(first) else None


def _element(x: Value, first: tuple[int, ...] | None) -> Extent:
    """The number of the element at an index."""
    strides = [dim.product(x.shape[axis + 1 :]) for axis in range(x.type.rank)]
    found: Extent = 0
    for at, stride in zip(first or (), strides, strict=False):
        found = found + at * stride
    return found
