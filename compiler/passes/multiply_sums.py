"""Running sums as products with a triangle of ones: y[.., to] = sum_from x[.., from], where
from <= to (or <, >=, >).

A device has no loops in which one element waits for the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import dim
from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite
from ..tensor_type import INT64


def multiply_sums(graph: Graph) -> Graph:
    """The graph without running sums."""
    return rewrite(graph, _multiplied)


def _multiplied(b: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name != "running_sum":
        return None
    (x,), attrs = node.inputs, node.attrs
    order = list(range(x.type.rank))
    order[attrs.axis], order[-1] = order[-1], order[attrs.axis]
    line = b("transpose", x, permutation=tuple(order))
    *lines, extent = line.shape
    first = b("iota", shape=(extent, 1), axis=0, dtype=INT64)
    last = b("iota", shape=(1, extent), axis=1, dtype=INT64)
    if attrs.reverse:
        first, last = last, first
    is_in = b("less" if attrs.exclusive else "less_equal", first, last)
    triangle = b("cast", is_in, dtype=x.dtype)  # [from, to]
    flat = b("reshape", line, shape=(dim.product(lines), extent))
    sums = b("reshape", b("matmul", flat, triangle), shape=line.shape)
    return [b("transpose", sums, permutation=tuple(order))]
