"""Gradients of gathers are summed in the order of their places: gather_gradient, which looks at
all rows for each place of the table, becomes a sort, sums of runs, and a search for each place.

dx[v] = the last sum of the run of v among the sorted indices, or 0 if there is none. The table is
not written for it: what reads the gradient, such as an optimizer's update, gathers its rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import dim
from ..dim import Extent
from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite
from ..tensor_type import INT32, INT64
from .sort_by_merging import order_of

LEAST_ROWS = 16  # of indices, and of the table: of fewer, all pairs are looked at sooner
MOST_ROWS = (1 << 31) - 1  # of the table: places are sorted as int32


def sum_by_sorting(graph: Graph) -> Graph:
    """The graph with the gradients of large gathers as sums of runs."""
    return rewrite(graph, _summed)


def _summed(b: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name != "gather_gradient" or not _is_large(node):
        return None
    dy, indices = node.inputs
    axis, extent = node.attrs.axis, node.attrs.extent
    rank = indices.type.rank
    count = dim.product(indices.shape)
    # [.., indices.., ..] -> [indices.., .., ..] -> [n, c]
    front = (*range(axis, axis + rank), *range(axis), *range(axis + rank, dy.type.rank))
    moved = dy if front == tuple(range(dy.type.rank)) else b("transpose", dy, permutation=front)
    rest = moved.shape[rank:]
    rows = b("reshape", moved, shape=(count, dim.product(rest)))
    table = b("reshape", _table(b, rows, _places(b, indices, count, extent), extent),
              shape=(extent, *rest))  # fmt: skip
    back = (*range(1, axis + 1), 0, *range(axis + 1, table.type.rank))
    return [table if axis == 0 else b("transpose", table, permutation=back)]


def _is_large(node: Node) -> bool:
    """Whether it pays; and the last row of nothing is none."""
    extents = (node.attrs.extent, dim.product(node.inputs[1].shape))
    (least, most), (fewest, count) = map(dim.bounds, extents)
    if most is None or most > MOST_ROWS or min(least or 0, fewest or 0) < 1:
        return False
    return most >= LEAST_ROWS and (count is None or count >= LEAST_ROWS)


def _places(b: Rewriter, indices: Value, count: Extent, extent: Extent) -> Value:
    """[n]: indices counted from 0."""
    wide = indices if indices.dtype is INT64 else b("cast", indices, dtype=INT64)
    flat = b("reshape", wide, shape=(count,))
    if not indices.dtype.is_signed:
        return flat
    length = b("extent", extent=extent) if not isinstance(extent, int) else extent
    return b("select", b("less", flat, 0), b("add", flat, length), flat)


def _table(b: Rewriter, rows: Value, places: Value, extent: Extent) -> Value:
    """[n, c] and the place of each row -> [extent, c]: the sums of the rows of each place."""
    sorted_ = order_of(b, b("cast", places, dtype=INT32), False)
    numbers = b("gather", places, sorted_, axis=0)
    sums = b("run_sum", b("gather", rows, sorted_, axis=0), numbers)
    every = b("iota", shape=(extent,), axis=0, dtype=INT64)
    last = b("max", b("sub", b("search_sorted", numbers, every), 1), 0)
    is_there = b("equal", b("gather", numbers, last, axis=0), every)
    found = b("reshape", is_there, shape=(extent, 1))
    return b("select", found, b("gather", sums, last, axis=0), b.number(0, rows.dtype))
