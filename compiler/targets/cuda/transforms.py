"""Winograd's transforms -> the form ``Transform``: a thread reads a tile, multiplies it from
both sides, stores the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from netloom.errors import UnsupportedOpError

from ... import dim
from ...dim import Extent
from ...graph import Node
from ...loops.elements import Axis, Elements
from ...ops.tiles import TileAttrs
from ...scalar import Argument, Expr, guarded
from .attention_form import attention_form
from .attention_gradient_form import gradient_form
from .elements import SUM
from .forms import Engine, FusedAttention, FusedGradient, FusedWinograd, Put, Transform
from .winograd import fused_form


def transform_form(
    elements: Elements, engine: Engine
) -> Transform | FusedWinograd | FusedAttention | FusedGradient:
    """The form of a kernel whose anchor is one of Winograd's transforms, all of them, or attention
    or its gradient, which the engine multiplies.

    UnsupportedOpError for those of other algorithms.
    """
    node = elements.anchor
    assert node is not None
    if node.op.name == "attention_gradient_fused":
        return gradient_form(elements, node, engine)
    if node.op.name in ATTENTIONS:
        return attention_form(elements, node, engine)
    if node.op.name not in TRANSFORMS:
        raise UnsupportedOpError(
            f"the cuda target has no code for {node.op.name}.",
            node=node.label,
            hint="Compile for the cpu target, or cut the model before it.",
        )
    return TRANSFORMS[node.op.name](elements, node)


def _of_input(elements: Elements, node: Node) -> Transform:
    """V[e f, g, tile, c] = (B' x B)[e, f]; x is zero outside."""
    attrs, x = node.attrs, node.inputs[0]
    rows, columns = attrs.inputs
    n, c, h, w = x.shape
    axes = _axes((n, *attrs.counts, c))
    at = [axis.position for axis in axes]
    top, left = (t * m - lo for t, m, lo in zip(at[1:3], attrs.m, attrs.lo, strict=True))
    number = (at[0] * attrs.counts[0] + at[1]) * attrs.counts[1] + at[2]
    group, channel = _within(at[3], node.output.shape)

    def read(i: int, j: int) -> Expr:
        y, z = top + i, left + j
        return guarded(
            (y, h - 1 - y, z, w - 1 - z), elements.element(x, (at[0], at[3], y, z), None)
        )

    reads = tuple(tuple(read(i, j) for j in range(columns)) for i in range(rows))
    puts = tuple(
        tuple(_put(elements, (e * columns + f, group, number, channel)) for f in range(columns))
        for e in range(rows)
    )
    return Transform(axes, _name("input", attrs), reads, puts)


def _of_output(elements: Elements, node: Node) -> Transform:
    """y[n, o, tile] = (A' M A), without what lies outside."""
    attrs, product = node.attrs, node.inputs[0]
    (m, k), (rows, columns) = attrs.m, attrs.inputs
    n, filters, h, w = attrs.shape
    down, across = attrs.tiles(attrs.shape)
    axes = _axes((n, down, across, filters))
    at = [axis.position for axis in axes]
    number = (at[0] * down + at[1]) * across + at[2]
    group, channel = _within(at[3], product.shape)

    def read(e: int, f: int) -> Expr:
        return elements.element(product, (e * columns + f, group, number, channel), None)

    def put(i: int, j: int) -> Put:
        y, z = at[1] * m + i, at[2] * k + j
        return _put(elements, (at[0], at[3], y, z), (h - 1 - y, w - 1 - z))

    reads = tuple(tuple(read(e, f) for f in range(columns)) for e in range(rows))
    return Transform(
        axes,
        _name("output", attrs),
        reads,
        tuple(tuple(put(i, j) for j in range(k)) for i in range(m)),
    )


def _of_output_gradient(elements: Elements, node: Node) -> Transform:
    """P[e f, g, tile, o] = (A dy A')[e, f]; dy is zero outside."""
    attrs, dy = node.attrs, node.inputs[0]
    n, filters, h, w = dy.shape
    down, across = attrs.tiles(dy.shape)
    axes = _axes((n, down, across, filters))
    at = [axis.position for axis in axes]
    number = (at[0] * down + at[1]) * across + at[2]
    group, channel = _within(at[3], node.output.shape)
    rows, columns = attrs.inputs

    def read(i: int, j: int) -> Expr:
        y, z = at[1] * attrs.m[0] + i, at[2] * attrs.m[1] + j
        return guarded((h - 1 - y, w - 1 - z), elements.element(dy, (at[0], at[3], y, z), None))

    reads = tuple(tuple(read(i, j) for j in range(attrs.m[1])) for i in range(attrs.m[0]))
    puts = tuple(
        tuple(_put(elements, (e * columns + f, group, number, channel)) for f in range(columns))
        for e in range(rows)
    )
    return Transform(axes, _name("gradient", attrs), reads, puts)


def _of_filter(elements: Elements, node: Node) -> Transform:
    """U[e f, g] = (G w G')[e, f] of every filter and channel, flipped for the input's
    gradient.
    """
    attrs, w = node.attrs, node.inputs[0]
    _, groups, rows, columns = node.output.shape
    axes = _axes((groups, rows, columns))
    group, row, column = (axis.position for axis in axes)
    (r, s), (height, width) = attrs.taps, attrs.inputs

    def read(i: int, j: int) -> Expr:
        if attrs.is_flipped:
            return elements.element(w, (group * rows + row, column, r - 1 - i, s - 1 - j), None)
        return elements.element(w, (group * columns + column, row, i, j), None)

    reads = tuple(tuple(read(i, j) for j in range(s)) for i in range(r))
    puts = tuple(
        tuple(_put(elements, (e * width + f, group, row, column)) for f in range(width))
        for e in range(height)
    )
    return Transform(axes, _name("filter", attrs), reads, puts)


def _of_filter_gradient(elements: Elements, node: Node) -> Transform:
    """dw[o, c] = G' dU[., c, o] G."""
    attrs, sums = node.attrs, node.inputs[0]
    _, groups, rows, columns = sums.shape
    axes = _axes((groups, rows, columns))
    group, row, column = (axis.position for axis in axes)
    (r, s), (height, width) = attrs.taps, attrs.inputs

    def read(e: int, f: int) -> Expr:
        return elements.element(sums, (e * width + f, group, row, column), None)

    reads = tuple(tuple(read(e, f) for f in range(width)) for e in range(height))
    puts = tuple(
        tuple(_put(elements, (group * columns + column, row, i, j)) for j in range(s))
        for i in range(r)
    )
    return Transform(axes, _name("back", attrs), reads, puts)


ATTENTIONS: Final = ("attention_fused", "attention_parts")
TRANSFORMS: Final[Mapping[str, Callable[[Elements, Node], Transform | FusedWinograd]]] = {
    "winograd_input": _of_input,
    "winograd_output": _of_output,
    "winograd_output_gradient": _of_output_gradient,
    "winograd_filter": _of_filter,
    "winograd_filter_gradient": _of_filter_gradient,
    "winograd_fused": fused_form,
}


def _within(channel: Extent, shape: Sequence[Extent]) -> tuple[Extent, Extent]:
    """The group and the channel inside it, of tiles [e, g, tile, channels of a group]."""
    per_group = shape[3]
    return (
        (channel // per_group, channel % per_group)
        if shape[1] != 1 and isinstance(per_group, int)
        else (0, channel)
    )


def _name(which: str, attrs: TileAttrs) -> str:
    """Of the intrinsic: which matrices, and outputs and taps along both axes."""
    (m, k), (r, s) = attrs.m, attrs.taps
    return f"{which}{m}t{r}x{k}t{s}"


def _axes(extents: Sequence[Extent]) -> tuple[Axis, ...]:
    return tuple(Axis.of(f"p{place}", extent) for place, extent in enumerate(extents))


def _put(
    elements: Elements, position: tuple[Extent, ...], conditions: tuple[Extent, ...] = ()
) -> Put:
    assert elements.anchor is not None
    value = elements.element(elements.output, position, Argument(SUM, elements.anchor.output.dtype))
    return Put(position, dim.unproved(conditions), value)
