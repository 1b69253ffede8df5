"""Layouts: convolutions compute in channel blocks of 16, and what lies between them stays so.

``reorder`` nodes stand where a value must change its layout; those of constants fold, so weights
are packed when compiling. Values without a layout are row-major; inputs, outputs and states always
are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..graph import Builder, Graph, Node, Value, finish, rebuilder
from ..layout import BLOCK, Layout, Part, channel_blocked
from ..loops.strides import MOST_STEP
from ..op import OPS
from ..ops.convolution import padding_of_output_gradient
from .blocked_views import blocked_view

PACKED_ROWS, PACKED_BYTES = 128, 2 << 20  # of a product whose right operand is packed at run time
# of a right operand whose columns are made contiguous, their length, rows of the left one
FEW_COLUMNS, LONG, SKINNY_ROWS = 8, 64, 64
PADDED = 1.25  # columns in panels, padding and all, for each one that is there
QUAD = 4  # bytes whose products CPUs add up at once
ALGORITHMS = ("winograd", "fft")  # tile by tile: the names that the ops of ops/tiles.py begin with
# these read vectors of the last axis, wherever they lie
PANEL_READERS = tuple(
    f"{name}_{stage}" for name in ALGORITHMS for stage in ("output", "filter_gradient")
)


def choose_layout(graph: Graph) -> Graph:
    """The graph with layouts on values, and reorders where they meet."""
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        inputs = [mapping[v] for v in node.inputs]
        mapping.update(zip(node.outputs, _placed(b, graph, node, inputs), strict=True))
    for value in graph.results:
        mapping[value] = _plain(b, mapping[value])
    return _packed_constants(finish(b, graph, mapping))


def _packed_constants(graph: Graph) -> Graph:
    """reorder(constant) => the constant in that layout; it is packed when it is stored."""
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        constant = graph.constant_of(node.inputs[0]) if node.op.name == "reorder" else None
        if constant is None:
            mapping.update(
                zip(node.outputs, b.copy(node, [mapping[v] for v in node.inputs]), strict=True)
            )
        else:
            record = OPS["constant"]
            made = b.add(record, [], record.attrs(constant), node.label, node.outputs)
            mapping[node.output] = made.output
    return finish(b, graph, mapping)


def _placed(b: Builder, graph: Graph, node: Node, inputs: list[Value]) -> Sequence[Value]:
    """The node over inputs in the layouts that it wants."""
    if node.op.name == "conv":
        return _convolution(b, node, inputs)
    if node.op.name == "conv_input_gradient":
        return _input_gradient(b, node, inputs)
    if node.op.name == "conv_weight_gradient":
        return _weight_gradient(b, node, inputs)
    algorithm, _, stage = node.op.name.partition("_")
    if algorithm in ALGORITHMS:
        return _stage_of_tiles(b, node, stage, inputs)
    if node.op.name == "matmul":
        return _product(b, graph, node, inputs)
    if node.op.is_elementwise and len(node.outputs) == 1:
        return _elementwise(b, node, inputs)
    if node.op.name in ("max_pool", "average_pool") and _pools_blocks(node, inputs[0]):
        blocked = channel_blocked(inputs[0].type.rank)
        return _with_layout(b, node, [_reordered(b, inputs[0], blocked)], blocked)
    if (
        node.op.name == "pad"
        and inputs[0].layout is not None
        and not (node.attrs.lo[1] or node.attrs.hi[1])
    ):
        return _with_layout(b, node, inputs, inputs[0].layout)
    if inputs and (view := blocked_view(graph, node, inputs[0])) is not None:
        return _with_layout(b, node, inputs, view)
    if node.op.name == "concat" and _joins_blocks(node, inputs):
        return _with_layout(b, node, inputs, inputs[0].layout)
    if (
        node.op.name == "reduce_sum"
        and inputs[0].layout is not None
        and not {0, 1} & set(node.attrs.axes)
    ):
        return b.copy(node, inputs)
    return b.copy(node, [_plain(b, value) for value in inputs])


def _stage_of_tiles(b: Builder, node: Node, stage: str, inputs: list[Value]) -> Sequence[Value]:
    """Images in channel blocks, entries of tiles in panels, weights row-major."""
    match stage:
        case "input" | "output_gradient":
            return _with_layout(
                b, node, [_reordered(b, inputs[0], channel_blocked(4))], _panel_layout(node.output)
            )
        case "output":
            return _with_layout(b, node, inputs, channel_blocked(4))
        case "fused":
            x = _reordered(b, inputs[0], channel_blocked(4))
            u = inputs[1] if _in_panels(inputs[1]) else _panels(b, _plain(b, inputs[1]))
            return _with_layout(b, node, [x, u], channel_blocked(4))
        case "filter":
            return _with_layout(b, node, [_plain(b, inputs[0])], _panel_layout(node.output))
    return b.copy(node, inputs)


def _with_layout(
    b: Builder, node: Node, inputs: Sequence[Value], layout: Layout | None
) -> Sequence[Value]:
    outputs = [Value(v.type, v.label, layout) for v in node.outputs]
    return b.add(node.op, inputs, node.attrs, node.label, outputs).outputs


def _plain(b: Builder, value: Value) -> Value:
    return value if value.layout is None else b("reorder", value, layout=None, label=value.label)


def _reordered(b: Builder, value: Value, layout: Layout) -> Value:
    if value.layout == layout:
        return value
    record = OPS["reorder"]
    placed = Value(value.type, value.label, layout)
    return b.add(record, [value], record.attrs(layout), value.label, [placed]).output


def _elementwise(b: Builder, node: Node, inputs: list[Value]) -> Sequence[Value]:
    layout = next(
        (v.layout for v in inputs if v.layout is not None and v.shape == node.output.shape), None
    )
    if layout is None:
        return b.copy(node, [_plain(b, value) for value in inputs])
    placed = [
        _reordered(b, v, layout) if v.shape == node.output.shape else _plain(b, v) for v in inputs
    ]
    return _with_layout(b, node, placed, layout)


def _joins_blocks(node: Node, inputs: Sequence[Value]) -> bool:
    """Whether a concat of channels puts whole blocks behind each other."""
    first = inputs[0].layout
    if node.attrs.axis != 1 or first is None or any(v.layout != first for v in inputs):
        return False
    return all(v.shape[1] % BLOCK == 0 for v in inputs)


def _convolution(b: Builder, node: Node, inputs: list[Value]) -> Sequence[Value]:
    """Blocks of filters, and of channels if they fill blocks; a few channels (an image) stay as
    they are.
    """
    x, w = inputs
    attrs = node.attrs
    channels, filters = w.shape[1], w.shape[0]
    rank = x.type.rank
    assert isinstance(channels, int) and isinstance(filters, int)
    is_depthwise = channels == 1 and filters == attrs.groups
    if attrs.groups == 1:
        blocks, is_blocked = _fills_blocks(channels), _fills_blocks(filters)
    else:
        blocks = channels % BLOCK == 0 and (filters // attrs.groups) % BLOCK == 0
        is_blocked = blocks or (
            is_depthwise and _fills_blocks(filters) and not _walks_rows(node, x)
        )
    if not is_blocked and attrs.groups == 1:
        return _with_attrs(
            b, node, [_padded(b, node, _plain(b, x)), _plain(b, w)], _without_padding(node), None
        )
    if not is_blocked:
        return b.copy(node, [_plain(b, value) for value in inputs])
    blocked = channel_blocked(rank)
    takes_blocks = blocks or is_depthwise
    x = _reordered(b, x, blocked) if takes_blocks else _plain(b, x)
    packed = _packed_bytes(rank) if blocks and _multiplies_bytes(node) else _packed(rank, blocks)
    w = _reordered(b, _plain(b, w), packed)
    return _with_attrs(b, node, [_padded(b, node, x), w], _without_padding(node), blocked)


def _input_gradient(b: Builder, node: Node, inputs: list[Value]) -> Sequence[Value]:
    """Blocks of channels; the output's gradient is padded so that every kernel position finds an
    element.
    """
    dy, w = inputs
    attrs, rank = node.attrs, dy.type.rank
    filters, channels = dy.shape[1], node.output.shape[1]
    assert isinstance(filters, int) and isinstance(channels, int)
    if attrs.groups != 1:
        return b.copy(node, [_plain(b, value) for value in inputs])
    is_blocked = _fills_blocks(channels)
    has_blocks = is_blocked and _fills_blocks(filters)
    dy = _reordered(b, dy, channel_blocked(rank)) if has_blocks else _plain(b, dy)
    w = (
        _reordered(b, _plain(b, w), _packed(rank, has_blocks, lanes=1))
        if is_blocked
        else _plain(b, w)
    )
    before, behind = padding_of_output_gradient(attrs, dy.type, w.type)
    lo = tuple(p + n * s for p, n, s in zip(attrs.lo, before, attrs.stride, strict=True))
    hi = tuple(p + n * s for p, n, s in zip(attrs.hi, behind, attrs.stride, strict=True))
    padded = _with_zeros(b, node, dy, before, behind)
    return _with_attrs(
        b,
        node,
        [padded, w],
        replace(attrs, lo=lo, hi=hi),
        channel_blocked(rank) if is_blocked else None,
    )


def _weight_gradient(b: Builder, node: Node, inputs: list[Value]) -> Sequence[Value]:
    """Blocks of filters, and of channels if they fill blocks; what comes out is row-major, as
    states are.
    """
    x, dy = inputs
    attrs, rank = node.attrs, x.type.rank
    channels, filters = x.shape[1], dy.shape[1]
    assert isinstance(channels, int) and isinstance(filters, int)
    if attrs.groups != 1:
        return b.copy(node, [_plain(b, value) for value in inputs])
    is_blocked = _fills_blocks(filters)
    has_blocks = is_blocked and _fills_blocks(channels)
    x = _reordered(b, x, channel_blocked(rank)) if has_blocks else _plain(b, x)
    dy = _reordered(b, dy, channel_blocked(rank)) if is_blocked else _plain(b, dy)
    layout = _packed(rank, has_blocks) if is_blocked else None
    outputs = _with_attrs(b, node, [_padded(b, node, x), dy], _without_padding(node), layout)
    return [_plain(b, outputs[0])]


def _product(b: Builder, graph: Graph, node: Node, inputs: list[Value]) -> Sequence[Value]:
    """Right operands in panels, if constant, worth packing or multiplied into panels, whose padding
    they must have; operands and results of transforms stay in theirs."""
    left, right = inputs
    is_transformed = any(user.op.name in PANEL_READERS for user in graph.users.get(node.output, ()))
    if not _in_panels(left):
        left = _plain(b, left)
    if not _in_panels(right):
        is_constant = graph.constant_of(node.inputs[1]) is not None
        is_packed = is_constant or is_transformed or _is_worth_packing(node)
        if is_constant and _multiplies_bytes(node) and not node.attrs.transpose_b:
            right = _reordered(b, _plain(b, right), _panels_of_bytes(right))
        elif node.attrs.transpose_b:
            right = _plain(b, right)
            if is_constant and _has_full_columns(graph, node):
                right = _reordered(b, right, _columns_in_panels(right))
        elif _is_skinny(node, is_constant) and not is_transformed:
            right = _reordered(b, _plain(b, right), _by_columns(right))
        else:
            right = _panels(b, right) if is_packed else _plain(b, right)
    return _with_layout(
        b, node, [left, right], _panel_layout(node.output) if is_transformed else None
    )


def _is_worth_packing(node: Node) -> bool:
    """Whether a product reads its right operand so often that packing it first pays: row-major, the
    rows of a large matrix lie a power of two apart or nearly so, and push each other out of the
    cache (Goto and van de Geijn 2008, section 4)."""
    left, right = node.inputs
    if not (left.type.is_static and right.type.is_static):
        return False
    batch, (k, n) = right.type.static_shape[:-2], right.type.static_shape[-2:]
    rows = math.prod(left.type.static_shape) // (math.prod(batch) * k or 1)
    return rows >= PACKED_ROWS and k * n * right.dtype.bytes >= PACKED_BYTES


def _is_skinny(node: Node, is_constant: bool) -> bool:
    """Whether the right operand has so few columns that vectors run along the sum instead, for
    which each column must be contiguous: where it is constant, or short beside the left operand."""
    left, right = node.inputs
    k, n = right.shape[-2:]
    if (
        node.attrs.transpose_a
        or node.attrs.transpose_b
        or not (isinstance(k, int) and isinstance(n, int))
    ):
        return False
    rows = left.shape[-2]
    return (
        1 < n <= FEW_COLUMNS
        and k >= LONG
        and (is_constant or (isinstance(rows, int) and rows >= SKINNY_ROWS))
    )


def _has_full_columns(graph: Graph, node: Node) -> bool:
    """Whether a constant that a product reads transposed gives it columns for lanes, which few
    padding lanes are among. Lanes along the sum would have to be added up for each result, and what
    follows the product (an activation) would have one lane. A constant that others read as it is
    stays as it is, for it would be stored twice."""
    right = node.inputs[1]
    columns = right.shape[-2]
    if not isinstance(columns, int) or PADDED * columns < -(-columns // BLOCK) * BLOCK:
        return False
    return all(
        user.op.name == "matmul" and user.inputs[0] is not right and user.attrs.transpose_b
        for user in graph.users.get(right, ())
    )


def _columns_in_panels(value: Value) -> Layout:
    """A right operand [n, k] that is read transposed, in panels of 16 columns, each k x 16."""
    rank = value.type.rank
    batch = [Part(axis) for axis in range(rank - 2)]
    return Layout((*batch, Part(rank - 2, BLOCK), Part(rank - 1), Part(rank - 2, 1, BLOCK)))


def _by_columns(value: Value) -> Layout:
    rank = value.type.rank
    return Layout((*(Part(axis) for axis in range(rank - 2)), Part(rank - 1), Part(rank - 2)))


def _in_panels(value: Value) -> bool:
    return value.layout is not None and value.layout == _panel_layout(value)


def _panels(b: Builder, value: Value) -> Value:
    """A constant right operand in panels of 16 columns, each k x 16: a tile reads it front to
    back.
    """
    layout = _panel_layout(value)
    return _plain(b, value) if layout is None else _reordered(b, value, layout)


def _panels_of_bytes(value: Value) -> Layout:
    """[k, n] in panels of 16 columns, each k/4 x 16 x 4."""
    rows, columns = value.type.rank - 2, value.type.rank - 1
    batch = [Part(axis) for axis in range(rows)]
    lanes = (Part(columns, 1, BLOCK), Part(rows, 1, QUAD))
    return Layout((*batch, Part(columns, BLOCK), Part(rows, QUAD), *lanes))


def _panel_layout(value: Value) -> Layout | None:
    rank = value.type.rank
    if not isinstance(value.shape[-1], int) or value.shape[-1] < BLOCK:
        return None
    batch = [Part(axis) for axis in range(rank - 2)]
    return Layout((*batch, Part(rank - 1, BLOCK), Part(rank - 2), Part(rank - 1, 1, BLOCK)))


def _pools_blocks(node: Node, x: Value) -> bool:
    """Whether a pooling runs over blocks of channels: if it finds them, or else reads its rows
    with large gaps.
    """
    channels = x.shape[1]
    return x.layout is not None or (
        node.attrs.stride[-1] > MOST_STEP and isinstance(channels, int) and _fills_blocks(channels)
    )


def _walks_rows(node: Node, x: Value) -> bool:
    """Whether a row-major input may stay so: its rows are read element after element."""
    return x.layout is None and node.attrs.stride[-1] == 1


def _fills_blocks(extent: int) -> bool:
    """Whether computing the padding lanes of the last block costs less than leaving the blocked
    layout.
    """
    return 2 * extent > -(-extent // BLOCK) * BLOCK


def _packed(rank: int, blocks: bool, lanes: int = 0) -> Layout:
    """o/16 c/16 k… c%16 o%16, or without blocks of channels o/16 c k… o%16; with ``lanes`` 1, o
    and c exchanged.
    """
    spatial = [Part(axis) for axis in range(2, rank)]
    other = 1 - lanes
    if blocks:
        return Layout(
            (
                Part(lanes, BLOCK),
                Part(other, BLOCK),
                *spatial,
                Part(other, 1, BLOCK),
                Part(lanes, 1, BLOCK),
            )
        )
    return Layout((Part(lanes, BLOCK), Part(other), *spatial, Part(lanes, 1, BLOCK)))


def _packed_bytes(rank: int) -> Layout:
    """o/16 c/16 k… (c%16)/4 o%16 c%4: four bytes of channels, for each of 16 filters."""
    spatial = [Part(axis) for axis in range(2, rank)]
    lanes = (Part(1, QUAD, BLOCK // QUAD), Part(0, 1, BLOCK), Part(1, 1, QUAD))
    return Layout((Part(0, BLOCK), Part(1, BLOCK), *spatial, *lanes))


def _multiplies_bytes(node: Node) -> bool:
    """Whether products add up in fours along the summed axis, which lies in whole quads."""
    left, right = node.inputs
    depth = right.shape[-2] if node.op.name == "matmul" else right.shape[1]
    whole = QUAD if node.op.name == "matmul" else BLOCK
    return left.dtype is not right.dtype and depth % whole == 0


def _padded(b: Builder, node: Node, x: Value) -> Value:
    """Zeros around the input: the convolution's loops then test no borders."""
    return _with_zeros(b, node, x, node.attrs.lo, node.attrs.hi)


def _with_zeros(
    b: Builder, node: Node, x: Value, lo: tuple[int, ...], hi: tuple[int, ...]
) -> Value:
    if not any((*lo, *hi)):
        return x
    pad = OPS["pad"]
    values = pad.attrs(lo=(0, 0, *lo), hi=(0, 0, *hi))
    shape = tuple(
        e + before + behind for e, before, behind in zip(x.shape, values.lo, values.hi, strict=True)
    )
    return b.add(
        pad, [x], values, node.label, [Value(x.type.with_shape(shape), node.label, x.layout)]
    ).output


def _without_padding(node: Node) -> Any:
    zeros = (0,) * len(node.attrs.lo)
    return replace(node.attrs, lo=zeros, hi=zeros)


def _with_attrs(
    b: Builder, node: Node, inputs: Sequence[Value], attrs: Any, layout: Layout | None
) -> Sequence[Value]:
    outputs = [Value(v.type, v.label, layout) for v in node.outputs]
    return b.add(node.op, inputs, attrs, node.label, outputs).outputs
