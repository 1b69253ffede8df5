"""winograd_f2, winograd_f4: 3x3 convolutions of stride 1 in tiles of m x m outputs (ops/transforms.py).

m = 2 needs 16 products for 4 outputs instead of 36, m = 4 needs 36 for 16 instead of 144. Constant weights are transformed
when compiling. The gradient of the input is a convolution with the weights turned around; the gradient of the weights
sums products of the same tiles over all positions. A NaN or infinity in the input spreads over its tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..constant import Constant
from ..graph import Builder, Graph, Node, Value
from ..op import OPS
from ..ops.transforms import tile_counts
from .strategy import Cost, Strategy, geometry, nominal


def _rejects(_graph: Graph, node: Node) -> str | None:
    attrs, of = node.attrs, geometry(node)
    if of.w.dtype.bytes < 4:
        return f"its tiles would be rounded to {of.w.dtype.value}"
    if of.w.shape[2:] != (3, 3):
        return f"its kernel is {list(of.w.shape[2:])}; Winograd's form is for 3 x 3"
    if attrs.stride != (1, 1) or attrs.dilation != (1, 1):
        return f"its stride is {attrs.stride} and its dilation {attrs.dilation}; both must be 1"
    if attrs.groups != 1:
        return f"it has {attrs.groups} groups"
    if not all(isinstance(extent, int) for extent in (*of.x.shape[2:], *of.y.shape[2:])):
        return "its height or width is a free dim"
    if node.op.name == "conv_input_gradient" and max(*attrs.lo, *attrs.hi) > 2:
        return "its padding is wider than its kernel"
    return None


def _cost(m: int, graph: Graph, node: Node, batch: int) -> Cost:
    of = geometry(node)
    n, _, oh, ow = nominal(of.x if node.op.name == "conv_input_gradient" else of.y, batch)
    c, o = nominal(of.x)[1], nominal(of.y)[1]
    size = (m + 2) ** 2
    tiles = n * -(-oh // m) * -(-ow // m)
    products = size * tiles * c * o
    transforms = 12 * tiles * size * (c + o) * (m + 2) // 6  # two passes of short sums over each tile
    workspace = 4.0 * size * tiles * (c + o)
    filters = 4.0 * size * c * o
    is_constant = node.op.name != "conv_weight_gradient" and graph.constant_of(node.inputs[1]) is not None
    moved = 2 * workspace + 4.0 * (prod(nominal(of.x, batch)) + prod(nominal(of.y, batch)))
    return Cost(float(products + transforms), moved + (1 if is_constant else 3) * filters, workspace)


def _expand(m: int, b: Builder, graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    constant = graph.constant_of(node.inputs[1])
    match node.op.name:
        case "conv_input_gradient":
            filters = _filters(m, b, inputs[1], constant, is_turned=True)
            lo = (2 - node.attrs.lo[0], 2 - node.attrs.lo[1])
            return _convolution(m, b, node, inputs[0], filters, lo)
        case "conv_weight_gradient":
            return _weight_gradient(m, b, node, *inputs)
    filters = _filters(m, b, inputs[1], constant, is_turned=False)
    return _convolution(m, b, node, inputs[0], filters, node.attrs.lo)


def _convolution(m: int, b: Builder, node: Node, x: Value, filters: Value, lo: tuple[int, int]) -> Value:
    shape = node.output.shape
    v = b("winograd_input", x, m=m, lo=lo, tiles=tile_counts(m, shape), label=node.label)
    product = b("matmul", v, filters, label=node.label)
    return b("winograd_output", product, m=m, shape=shape, label=node.label)


def _filters(m: int, b: Builder, w: Value, constant: Constant | None, is_turned: bool) -> Value:
    """U[e, c, o] = (G w G')[e], or U[e, o, c] of weights turned by 180 degrees; of constants when compiling."""
    if constant is None:
        return b("winograd_filter", w, m=m, is_turned=is_turned)
    record = OPS["winograd_filter"]
    attrs = record.attrs(m, is_turned)
    assert record.reference is not None
    return b.constant(Constant(record.reference(attrs, [constant.array], record.infer(attrs, [w.type]))[0]))


def _weight_gradient(m: int, b: Builder, node: Node, x: Value, dy: Value) -> Value:
    """dw[o, c] = G' [sum over tiles of V[., t, c] P[., t, o]] G."""
    v = b("winograd_input", x, m=m, lo=node.attrs.lo, tiles=tile_counts(m, dy.shape), label=node.label)
    p = b("winograd_output_gradient", dy, m=m, label=node.label)
    sums = b("matmul", v, p, transpose_a=True, label=node.label)
    return b("winograd_filter_gradient", sums, m=m, label=node.label)


def _strategy(m: int, budget: float, accuracy: str) -> Strategy:
    return Strategy(
        f"winograd_f{m}", f"Winograd's minimal filtering in tiles of {m} x {m}", _rejects,
        lambda graph, node, batch: _cost(m, graph, node, batch),
        lambda b, graph, node, inputs: _expand(m, b, graph, node, inputs), budget, accuracy,
    )  # fmt: skip


WINOGRAD_F2 = _strategy(2, 2e-6, "strict")
WINOGRAD_F4 = _strategy(4, 1e-5, "default")
