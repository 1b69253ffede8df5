"""winograd_f2, winograd_f4: 3x3 convolutions of stride 1 in tiles of m x m outputs (ops/transforms.py).

m = 2 needs 16 products for 4 outputs instead of 36, m = 4 needs 36 for 16 instead of 144. The weights are transformed
when compiling. A NaN or infinity in the input spreads over its tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ..constant import Constant
from ..dim import ceil_div
from ..graph import Builder, Graph, Node, Value
from ..ops.transforms import matrices
from .strategy import Cost, Strategy, nominal


def _rejects(_graph: Graph, node: Node) -> str | None:
    attrs, w = node.attrs, node.inputs[1]
    if w.dtype.bytes < 4:
        return f"its tiles would be rounded to {w.dtype.value}"
    if w.shape[2:] != (3, 3):
        return f"its kernel is {list(w.shape[2:])}; Winograd's form is for 3 x 3"
    if attrs.stride != (1, 1) or attrs.dilation != (1, 1):
        return f"its stride is {attrs.stride} and its dilation {attrs.dilation}; both must be 1"
    if attrs.groups != 1:
        return f"it has {attrs.groups} groups"
    if not all(isinstance(extent, int) for extent in node.output.shape[2:]):
        return "its height or width is a free dim"
    return None


def _cost(m: int, node: Node) -> Cost:
    n, o, oh, ow = nominal(node.output)
    c = nominal(node.inputs[0])[1]
    size = (m + 2) ** 2
    tiles = n * -(-oh // m) * -(-ow // m)
    products = size * tiles * c * o
    transforms = size * tiles * (size * c + 2 * m * m * o)  # the output transform runs at about half the rate
    workspace = 4.0 * size * tiles * (c + o)
    moved = 2 * workspace + 4.0 * (prod(nominal(node.inputs[0])) + prod(nominal(node.output)) + size * c * o)
    return Cost(float(products + transforms), moved, workspace)


def _expand(m: int, b: Builder, graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    x, w = inputs
    n, o, oh, ow = node.output.shape
    tiles = (ceil_div(oh, m), ceil_div(ow, m))
    v = b("winograd_input", x, m=m, lo=node.attrs.lo, tiles=tiles, label=node.label)
    product = b("matmul", v, _transformed_filters(m, b, w, graph.constant_of(node.inputs[1])), label=node.label)
    return b("winograd_output", product, m=m, shape=(n, o, oh, ow), label=node.label)


def _transformed_filters(m: int, b: Builder, w: Value, constant: Constant | None) -> Value:
    """U[e, c, o] = (G w G')[e]; of constant weights while compiling, in float64."""
    o, c = w.shape[:2]
    size = (m + 2) ** 2
    spread = np.kron(matrices(m)[1], matrices(m)[1])
    if constant is not None:
        filters = constant.array.reshape(*constant.array.shape[:2], 9).astype(np.float64)
        return b.constant(Constant(np.einsum("ek,ock->eco", spread, filters).astype(w.dtype.numpy)))
    flat = b("reshape", b("transpose", w, permutation=(2, 3, 1, 0)), shape=(9, c * o))
    return b("reshape", b("matmul", b.constant(spread.astype(w.dtype.numpy)), flat), shape=(size, c, o))


def _strategy(m: int, budget: float, accuracy: str) -> Strategy:
    return Strategy(
        f"winograd_f{m}", f"Winograd's minimal filtering in tiles of {m} x {m}", _rejects, lambda node: _cost(m, node),
        lambda b, graph, node, inputs: _expand(m, b, graph, node, inputs), budget, accuracy,
    )  # fmt: skip


WINOGRAD_F2 = _strategy(2, 2e-6, "strict")
WINOGRAD_F4 = _strategy(4, 1e-5, "default")
