"""Running sums as products with a triangle of ones: y[.., to] = sum_from x[.., from] (from <= to).

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
    (x,) = node.inputs
    *lines, extent = x.shape
    first = b("iota", shape=(extent, 1), axis=0, dtype=INT64)
    last = b("iota", shape=(1, extent), axis=1, dtype=INT64)
    triangle = b("cast", b("less_equal", first, last), dtype=x.dtype)  # [from, to]
    flat = b("reshape", x, shape=(dim.product(lines), extent))
    return [b("reshape", b("matmul", flat, triangle), shape=x.shape)]
