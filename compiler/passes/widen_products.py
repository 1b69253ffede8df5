"""Convolutions, products and attention of short floats -> of float32, rounded at the end.

CPUs add them up in float32 anyway. Widened once, operands are not widened again for every product
that they are part of, and every strategy for float32 applies. A product of a few rows stays: it
reads its weights once, and short ones are half of what memory has to give.
"""

from __future__ import annotations

import math

import numpy as np

from ..constant import Constant
from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite
from ..tensor_type import FLOAT32

LEAST_ROWS = 8  # of a product whose operands are widened
MOST_WEIGHTS = 16 << 20  # that are stored in float32


def widen_products(graph: Graph) -> Graph:
    """The graph with those of floats of 16 bits as those of float32."""
    return rewrite(graph, _widened)


def _widened(b: Rewriter, node: Node) -> list[Value] | None:
    x = node.inputs[0] if node.inputs else None
    if x is None or not (x.dtype.is_float and x.dtype.bytes == 2):
        return None
    if not (node.op.name == "attention" or _is_wide_product(node)):
        return None
    wide = [_wide(b, value) if value.dtype is x.dtype else value for value in node.inputs]
    made = b.add(node.op, wide, node.attrs, node.label).output
    return [b("cast", made, dtype=x.dtype)]


def _is_wide_product(node: Node) -> bool:
    """Whether it is a product, or a convolution, that gains by it."""
    if node.op.name not in ("conv", "matmul") or node.inputs[0].dtype is not node.inputs[1].dtype:
        return False
    w = node.inputs[1]
    if not w.type.is_static or math.prod(w.type.static_shape) > MOST_WEIGHTS:
        return False
    return node.op.name == "conv" or _has_rows(node)


def _has_rows(node: Node) -> bool:
    """Whether a right operand meets enough rows; of free ones there may be one."""
    x, w = node.inputs
    rows = x.shape[-1 if node.attrs.transpose_a else -2]
    others = x.shape[:-2] if w.type.rank == 2 else ()
    known = [extent for extent in (rows, *others) if isinstance(extent, int)]
    return math.prod(known) >= LEAST_ROWS


def _wide(b: Rewriter, value: Value) -> Value:
    constant = b.constant_of(value)
    if constant is None:
        return b("cast", value, dtype=FLOAT32)
    return b.constant(Constant(constant.array.astype(np.float32)))


__all__ = ["widen_products"]
