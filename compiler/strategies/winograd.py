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
from ..ops.transforms import matrices, square
from .strategy import Cost, Strategy, nominal


def _rejects(graph: Graph, node: Node) -> str | None:
    attrs, w = node.attrs, node.inputs[1]
    if w.shape[2:] != (3, 3):
        return f"its kernel is {list(w.shape[2:])}; Winograd's form is for 3 x 3"
    if attrs.stride != (1, 1) or attrs.dilation != (1, 1):
        return f"its stride is {attrs.stride} and its dilation {attrs.dilation}; both must be 1"
    if attrs.groups != 1:
        return f"it has {attrs.groups} groups"
    if graph.constant_of(w) is None:
        return "its weights are not known when compiling"
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
    attrs, dtype = node.attrs, x.dtype
    n, o, oh, ow = node.output.shape
    th, tw = ceil_div(oh, m), ceil_div(ow, m)
    c, size = w.shape[1], (m + 2) ** 2
    back, forward, spread = (square(matrix) for matrix in matrices(m))
    constant = graph.constant_of(node.inputs[1])
    assert constant is not None and isinstance(th * m, int) and isinstance(tw * m, int)
    hi = [int(t * m + 2 - e - lo) for t, e, lo in zip((th, tw), x.shape[2:], attrs.lo, strict=True)]
    padded = b("pad", x, lo=(0, 0, *attrs.lo), hi=(0, 0, *(max(h, 0) for h in hi)), value=0.0)
    if min(hi) < 0:  # rows that no window reaches
        shape = (*x.shape[:2], th * m + 2, tw * m + 2)
        padded = b("slice", padded, start=(0,) * 4, size=shape, step=(1,) * 4)
    weights = np.einsum("ek,ock->eco", forward, constant.array.reshape(*constant.array.shape[:2], 9).astype(np.float64))
    tiles = b("winograd_input", padded, b.constant(spread.astype(dtype.numpy)), m=m, label=node.label)
    matrix = b("reshape", tiles, shape=(size, n * th * tw, c))
    product = b("matmul", matrix, b.constant(Constant(weights.astype(dtype.numpy))), label=node.label)
    product = b("reshape", product, shape=(size, n, th, tw, o))
    return b("winograd_output", product, b.constant(back.astype(dtype.numpy)), m=m, shape=(n, o, oh, ow), label=node.label)


def _strategy(m: int, budget: float, accuracy: str) -> Strategy:
    return Strategy(
        f"winograd_f{m}", f"Winograd's minimal filtering in tiles of {m} x {m}", _rejects, lambda node: _cost(m, node),
        lambda b, graph, node, inputs: _expand(m, b, graph, node, inputs), budget, accuracy,
    )  # fmt: skip


WINOGRAD_F2 = _strategy(2, 2e-6, "strict")
WINOGRAD_F4 = _strategy(4, 1e-5, "default")
