"""Winograd's transforms -> the form ``Transform``: a thread reads a tile, multiplies it from both sides, stores the result."""

from __future__ import annotations

from collections.abc import Sequence

from ... import dim, scalar
from ...dim import Extent
from ...graph import Node
from ...scalar import Argument, Expr, Guarded
from .elements import SUM, Elements
from .forms import Axis, Put, Transform

TRANSFORMS = frozenset({"winograd_input", "winograd_output"})


def transform_form(elements: Elements) -> Transform:
    """The form of a kernel whose anchor is one of Winograd's transforms."""
    assert elements.anchor is not None
    make = {"winograd_input": _of_input, "winograd_output": _of_output}[elements.anchor.op.name]
    return make(elements, elements.anchor)


def _of_input(elements: Elements, node: Node) -> Transform:
    """V[e f, tile, c] = (B' x B)[e, f]; x is zero outside."""
    attrs, x = node.attrs, node.inputs[0]
    size = attrs.m + 2
    n, c, h, w = x.shape
    axes = _axes((n, *attrs.tiles, c))
    at = [axis.position for axis in axes]
    top, left = (t * attrs.m - lo for t, lo in zip(at[1:3], attrs.lo, strict=True))
    number = (at[0] * attrs.tiles[0] + at[1]) * attrs.tiles[1] + at[2]

    def read(i: int, j: int) -> Expr:
        y, z = top + i, left + j
        return _where((y, h - 1 - y, z, w - 1 - z), elements.element(x, (at[0], at[3], y, z), None))

    reads = tuple(tuple(read(i, j) for j in range(size)) for i in range(size))
    puts = tuple(tuple(_put(elements, (e * size + f, number, at[3])) for f in range(size)) for e in range(size))
    return Transform(axes, f"input{attrs.m}", reads, puts)


def _of_output(elements: Elements, node: Node) -> Transform:
    """y[n, o, tile] = (A' M A), without what lies outside."""
    attrs, product = node.attrs, node.inputs[0]
    m, size = attrs.m, attrs.m + 2
    n, filters, h, w = attrs.shape
    down, across = dim.ceil_div(h, m), dim.ceil_div(w, m)
    axes = _axes((n, down, across, filters))
    at = [axis.position for axis in axes]
    number = (at[0] * down + at[1]) * across + at[2]
    reads = tuple(tuple(elements.element(product, (e * size + f, number, at[3]), None) for f in range(size)) for e in range(size))

    def put(i: int, j: int) -> Put:
        y, z = at[1] * m + i, at[2] * m + j
        return _put(elements, (at[0], at[3], y, z), (h - 1 - y, w - 1 - z))

    return Transform(axes, f"output{m}", reads, tuple(tuple(put(i, j) for j in range(m)) for i in range(m)))


def _axes(extents: Sequence[Extent]) -> tuple[Axis, ...]:
    return tuple(Axis.of(f"p{place}", extent) for place, extent in enumerate(extents))


def _put(elements: Elements, position: tuple[Extent, ...], conditions: tuple[Extent, ...] = ()) -> Put:
    assert elements.anchor is not None
    value = elements.element(elements.output, position, Argument(SUM, elements.anchor.output.dtype))
    return Put(position, tuple(c for c in conditions if not dim.is_nonnegative(c)), value)


def _where(conditions: Sequence[Extent], load: Expr) -> Expr:
    open_ = tuple(c for c in conditions if not dim.is_nonnegative(c))
    return Guarded(open_, load, scalar.literal(0, load.dtype)) if open_ else load



