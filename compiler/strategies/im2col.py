"""im2col: the windows of the input as the rows of a matrix, then one matmul (Chellapilla, Puri,
Simard 2006).

The gradient of the weights is the output's gradient times the same matrix; the gradient of the
input is, at stride 1, a convolution of the output's gradient with the weights flipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .. import dim
from ..graph import Builder, Graph, Node, Value
from .strategy import Cost, Strategy, direct_products, geometry, nominal

# times the matrix's bytes: what taking windows apart costs beyond writing and reading it (measured)
GATHERED = 6


def _rejects(_graph: Graph, node: Node) -> str | None:
    attrs = node.attrs
    if attrs.groups != 1:
        return f"it has {attrs.groups} groups; im2col is one matrix product"
    if node.inputs[0].dtype is not node.inputs[1].dtype:
        return "weights with a sign would stand left of bytes without one"
    if not all(isinstance(extent, int) for extent in _made(node).shape[3:]):
        return "a spatial axis behind the first is a free dim; the matrix's columns cannot be taken apart by it"
    if node.op.name == "conv_input_gradient":
        if any(s != 1 for s in attrs.stride):
            return f"its stride is {attrs.stride}; the gradient of the input is a convolution at stride 1"
        if min(_turned_padding(node)) < 0:
            return "its padding is wider than its kernel"
    return None


def _made(node: Node) -> Value:
    """The value of whose positions the matrix has columns."""
    of = geometry(node)
    return of.x if node.op.name == "conv_input_gradient" else of.y


def _turned_padding(node: Node) -> tuple[int, ...]:
    """Zeros before and behind the output's gradient, axis by axis, that give the input's
    gradient its extents.
    """
    attrs, kernel = node.attrs, node.inputs[1].shape[2:]
    return tuple((k - 1) * d - p for side in (attrs.lo, attrs.hi)
                 for k, d, p in zip(kernel, attrs.dilation, side, strict=True))  # fmt: skip


def _cost(_graph: Graph, node: Node, batch: int) -> Cost:
    of = geometry(node)
    read, made = (of.y, of.x) if node.op.name == "conv_input_gradient" else (of.x, of.y)
    n, channels = nominal(read, batch)[:2]
    taps = prod(nominal(of.w)[2:])
    matrix = 4.0 * n * channels * taps * prod(nominal(made)[2:])
    gathered = GATHERED * matrix if taps > 1 else 0.0
    moved = 4.0 * (
        prod(nominal(read, batch)) + prod(nominal(of.w)) + 2 * prod(nominal(made, batch))
    )
    return Cost(direct_products(node, batch), moved + gathered + 2 * matrix, matrix)


def _expand(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    match node.op.name:
        case "conv_input_gradient":
            return _input_gradient(b, node, *inputs)
        case "conv_weight_gradient":
            return _weight_gradient(b, node, *inputs)
    x, w = inputs
    attrs = node.attrs
    columns = _columns(b, node, x, attrs.lo, attrs.hi, attrs.stride)
    product = b("matmul", b("reshape", w, shape=(w.shape[0], columns.shape[1])), columns)
    return b("reshape", product, shape=node.output.shape, label=node.label)


def _columns(
    b: Builder, node: Node, x: Value, lo: Sequence[int], hi: Sequence[int], stride: Sequence[int]
) -> Value:
    """[n, c k.., out]: every window of the padded input as a column."""
    if any((*lo, *hi)):
        x = b("pad", x, lo=(0, 0, *lo), hi=(0, 0, *hi), value=0.0)
    kernel = geometry(node).w.shape[2:]
    windows = b("windows", x, kernel=kernel, stride=tuple(stride), dilation=node.attrs.dilation)
    rank = len(kernel)
    depth, positions = (
        dim.product(windows.shape[1 : 2 + rank]),
        dim.product(windows.shape[2 + rank :]),
    )
    return b("reshape", windows, shape=(x.shape[0], depth, positions))


def _input_gradient(b: Builder, node: Node, dy: Value, w: Value) -> Value:
    rank = w.type.rank - 2
    padding = _turned_padding(node)
    columns = _columns(b, node, dy, padding[:rank], padding[rank:], (1,) * rank)
    ends = tuple(k - 1 for k in w.type.static_shape[2:])
    flipped = b("slice", w, start=(0, 0, *ends), size=w.shape, step=(1, 1, *([-1] * rank)))
    swapped = b("transpose", flipped, permutation=(1, 0, *range(2, rank + 2)))
    product = b("matmul", b("reshape", swapped, shape=(w.shape[1], columns.shape[1])), columns)
    return b("reshape", product, shape=node.output.shape, label=node.label)


def _weight_gradient(b: Builder, node: Node, x: Value, dy: Value) -> Value:
    attrs = node.attrs
    columns = _columns(b, node, x, attrs.lo, attrs.hi, attrs.stride)
    rows = b("reshape", dy, shape=(*dy.shape[:2], dim.product(dy.shape[2:])))
    product = b("matmul", rows, columns, transpose_b=True)
    total = b("reduce_sum", product, axes=(0,))
    return b("reshape", total, shape=node.output.shape, label=node.label)


IM2COL = Strategy("im2col", "windows as a matrix, then a matmul", _rejects, _cost, _expand)
