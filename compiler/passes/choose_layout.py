"""Layouts: convolutions compute in channel blocks of 16, and what lies between them stays so.

``reorder`` nodes stand where a value must change its layout; those of constants fold, so weights
are packed when compiling. Values without a layout are row-major; inputs, outputs and states always
are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import dim
from ..graph import Builder, Graph, Node, Value, finish, rebuilder
from ..layout import BLOCK, Layout, channel_blocked, fills_blocks
from ..loops.strides import MOST_STEP
from ..op import OPS
from ..ops.convolution import padding_of_output_gradient
from .blocked_views import blocked_view
from .packed_layouts import (
    by_columns,
    columns_in_panels,
    packed_bytes,
    packed_filters,
    panels,
    panels_of_bytes,
)
from .right_operands import (
    has_full_columns,
    is_skinny,
    is_worth_packing,
    is_worth_turning,
    multiplies_bytes,
)

# A depthwise convolution of up to so many taps tests the borders itself: zeros around its input would
# be written and read once more, which takes longer than the convolution. With 49 taps tests do.
TESTED_TAPS = 25
FEW_TAPS = 24  # whose conditions, along rows, cost less than a change of layout
ALGORITHMS = ("winograd", "fft")  # tile by tile: the names that the ops of ops/tiles.py begin with
# these read vectors of the last axis, wherever they lie
PANEL_READERS = tuple(
    f"{name}_{stage}" for name in ALGORITHMS for stage in ("output", "filter_gradient")
)


def choose_layout(graph: Graph, typical_batch: int | None = None) -> Graph:
    """The graph with layouts on values, and reorders where they meet; ``typical_batch``: what free
    dims are taken for.
    """
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        inputs = [mapping[v] for v in node.inputs]
        if _is_spread(node):
            placed = _spread(b, node, inputs, _beside(graph, node, mapping))
        else:
            placed = _placed(b, graph, node, inputs, typical_batch or 1)
        mapping.update(zip(node.outputs, placed, strict=True))
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


def _placed(
    b: Builder, graph: Graph, node: Node, inputs: list[Value], free: int
) -> Sequence[Value]:
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
        return _product(b, graph, node, inputs, free)
    if node.op.name == "look_up" or (node.op.is_elementwise and len(node.outputs) == 1):
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
    if node.op.name == "gather" and _gathers_blocks(graph, node, inputs[0]):
        return _with_layout(b, node, [inputs[0], _plain(b, inputs[1])], inputs[0].layout)
    if node.op.name in ("reduce_sum", "reduce_max") and _reduces_blocks(node, inputs[0]):
        return b.copy(node, inputs)
    return b.copy(node, [_plain(b, value) for value in inputs])


def _stage_of_tiles(b: Builder, node: Node, stage: str, inputs: list[Value]) -> Sequence[Value]:
    """Images in channel blocks, entries of tiles in panels, weights row-major."""
    match stage:
        case "input" | "output_gradient":
            return _with_layout(
                b, node, [_reordered(b, inputs[0], channel_blocked(4))], panels(node.output)
            )
        case "output":
            return _with_layout(b, node, inputs, channel_blocked(4))
        case "fused":
            x = _reordered(b, inputs[0], channel_blocked(4))
            u = inputs[1] if _in_panels(inputs[1]) else _in_panels_of(b, _plain(b, inputs[1]))
            return _with_layout(b, node, [x, u], channel_blocked(4))
        case "filter":
            return _with_layout(b, node, [_plain(b, inputs[0])], panels(node.output))
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


def _is_spread(node: Node) -> bool:
    """Whether an elementwise op makes more elements than any of its inputs has."""
    is_one = node.op.is_elementwise and len(node.outputs) == 1
    return is_one and all(v.shape != node.output.shape for v in node.inputs)


def _beside(graph: Graph, node: Node, mapping: Mapping[Value, Value]) -> list[Value]:
    """What elementwise readers of a node's output meet it with, of the same shape, and already
    placed."""
    readers = (user for user in graph.users.get(node.output, ()) if user.op.is_elementwise)
    others = (value for user in readers for value in user.inputs)
    return [mapping[v] for v in others if v in mapping and v.shape == node.output.shape]


def _spread(
    b: Builder, node: Node, inputs: list[Value], beside: Sequence[Value]
) -> Sequence[Value]:
    """In the layout of what it will meet: its inputs are read anew for each element in any."""
    layout = next((v.layout for v in beside if v.layout is not None), None)
    return _with_layout(b, node, [_plain(b, value) for value in inputs], layout)


def _joins_blocks(node: Node, inputs: Sequence[Value]) -> bool:
    """Whether a concat of channels puts whole blocks behind each other."""
    first = inputs[0].layout
    if node.attrs.axis != 1 or first is None or any(v.layout != first for v in inputs):
        return False
    return all(v.shape[1] % BLOCK == 0 for v in inputs)


def _gathers_blocks(graph: Graph, node: Node, x: Value) -> bool:
    """Whether rows or columns of an image in blocks are picked (an image resized), for a reader of
    blocks: a vector has channels of one place then, where it would be gathered lane by lane."""
    is_line = node.inputs[1].type.rank == 1 and node.attrs.axis > 1
    is_image = x.layout is not None and x.layout == channel_blocked(x.type.rank)
    return is_line and is_image and _meets_blocks(graph, node)


def _meets_blocks(graph: Graph, node: Node) -> bool:
    """Whether a convolution reads what is made of an image element by element, or picked of it."""
    pending, seen = [node], {node}
    while pending:
        for reader in graph.users.get(pending.pop().output, ()):
            if reader.op.name == "conv" or reader.op.name.partition("_")[0] in ALGORITHMS:
                return True
            if _keeps_image(reader) and reader not in seen:
                seen.add(reader)
                pending.append(reader)
    return False


def _keeps_image(node: Node) -> bool:
    is_elementwise = node.op.is_elementwise and len(node.outputs) == 1
    return is_elementwise or node.op.name in ("gather", "pad", "concat")


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
        blocks, is_blocked = fills_blocks(channels), fills_blocks(filters)
    else:
        blocks = channels % BLOCK == 0 and (filters // attrs.groups) % BLOCK == 0
        is_blocked = blocks or (is_depthwise and fills_blocks(filters) and not _walks_rows(node, x))
    if not is_blocked and attrs.groups == 1:
        return _with_attrs(
            b, node, [_padded(b, node, _plain(b, x)), _plain(b, w)], _without_padding(node), None
        )
    if not is_blocked:
        return b.copy(node, [_plain(b, value) for value in inputs])
    blocked = channel_blocked(rank)
    takes_blocks = blocks or is_depthwise
    x = _reordered(b, x, blocked) if takes_blocks else _plain(b, x)
    packed = (
        packed_bytes(rank) if blocks and multiplies_bytes(node) else packed_filters(rank, blocks)
    )
    w = _reordered(b, _plain(b, w), packed)
    if is_depthwise and _has_at_most(TESTED_TAPS, w):
        return _with_attrs(b, node, [x, w], attrs, blocked)
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
    is_blocked = fills_blocks(channels)
    has_blocks = is_blocked and fills_blocks(filters)
    dy = _reordered(b, dy, channel_blocked(rank)) if has_blocks else _plain(b, dy)
    w = (
        _reordered(b, _plain(b, w), packed_filters(rank, has_blocks, lanes=1))
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
    is_blocked = fills_blocks(filters)
    has_blocks = is_blocked and fills_blocks(channels)
    x = _reordered(b, x, channel_blocked(rank)) if has_blocks else _plain(b, x)
    dy = _reordered(b, dy, channel_blocked(rank)) if is_blocked else _plain(b, dy)
    layout = packed_filters(rank, has_blocks) if is_blocked else None
    outputs = _with_attrs(b, node, [_padded(b, node, x), dy], _without_padding(node), layout)
    return [_plain(b, outputs[0])]


def _product(
    b: Builder, graph: Graph, node: Node, inputs: list[Value], free: int
) -> Sequence[Value]:
    """Right operands in panels, if constant, worth packing or multiplied into panels, whose padding
    they must have; operands and results of transforms stay in theirs."""
    left, right = inputs
    is_transformed = any(user.op.name in PANEL_READERS for user in graph.users.get(node.output, ()))
    if not _in_panels(left):
        left = _plain(b, left)
    if not _in_panels(right):
        is_constant = graph.constant_of(node.inputs[1]) is not None
        is_packed = is_constant or is_transformed or is_worth_packing(node)
        if is_constant and multiplies_bytes(node) and not node.attrs.transpose_b:
            right = _reordered(b, _plain(b, right), panels_of_bytes(right))
        elif node.attrs.transpose_b:
            right = _plain(b, right)
            if has_full_columns(graph, node) if is_constant else is_worth_turning(node, free):
                right = _reordered(b, right, columns_in_panels(right))
        elif is_skinny(node, is_constant) and not is_transformed:
            right = _reordered(b, _plain(b, right), by_columns(right))
        else:
            right = _in_panels_of(b, right) if is_packed else _plain(b, right)
    return _with_layout(b, node, [left, right], panels(node.output) if is_transformed else None)


def _in_panels(value: Value) -> bool:
    return value.layout is not None and value.layout == panels(value)


def _in_panels_of(b: Builder, value: Value) -> Value:
    """A constant right operand in panels of 16 columns, each k x 16: a tile reads it front to
    back.
    """
    layout = panels(value)
    return _plain(b, value) if layout is None else _reordered(b, value, layout)


def _reduces_blocks(node: Node, x: Value) -> bool:
    """Whether a reduction reads channel blocks as they are: over positions of an image, or over
    channels that fill them (padding lanes hold zeros, which would take part in a maximum)."""
    axes = set(node.attrs.axes)
    if x.layout is None or axes != {1}:
        return x.layout is not None and not {0, 1} & axes
    channels = x.shape[1]
    return isinstance(channels, int) and channels % BLOCK == 0


def _pools_blocks(node: Node, x: Value) -> bool:
    """Whether a pooling runs over blocks of channels: if it finds them, or else reads its rows
    with large gaps.
    """
    channels = x.shape[1]
    return x.layout is not None or (
        node.attrs.stride[-1] > MOST_STEP and isinstance(channels, int) and fills_blocks(channels)
    )


def _walks_rows(node: Node, x: Value) -> bool:
    """Whether a row-major input may stay so: its rows are read element after element, and for a few
    taps."""
    is_small = _has_at_most(FEW_TAPS, node.inputs[1])
    return x.layout is None and node.attrs.stride[-1] == 1 and is_small


def _has_at_most(taps: int, filters: Value) -> bool:
    found = dim.product(filters.shape[2:])
    return isinstance(found, int) and found <= taps


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
