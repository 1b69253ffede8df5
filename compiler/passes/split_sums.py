"""Long sums over outer axes, in two steps: sum_n x[n, c] = sum_b sum_s x[b S + s, c].

The sum over a batch has few results and many rows. Taken apart, each block of rows is a work item's
and is read as it lies in memory, row after row; the sums of blocks are small. How many blocks there
are depends on shapes only. Types that add up in a wider one stay whole: they are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..graph import Graph, Node, Value
from ..loops.elements import accumulated_in
from ..loops.ir import LANES
from ..rewrite import Rewriter, rewrite

SPLIT = frozenset({"reduce_sum", "reduce_max", "reduce_min"})
LEAST_READ = 1 << 18  # elements: smaller sums are one work item's
WIDEST = 1 << 15  # elements of a row: wider ones are shared out by columns
LEAST_BLOCKS, MOST_BLOCKS = 8, 64
LEAST_BLOCK, LEAST_ROWS = 1 << 14, 64  # elements and rows of a block


def split_sums(graph: Graph) -> Graph:
    """The graph with long sums over its outermost axes as sums of the sums of blocks."""
    return rewrite(graph, _split)


def _split(b: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name not in SPLIT or not _reads_rows(node):
        return None
    (x,) = node.inputs
    name, axes, shape = node.op.name, node.attrs.axes, x.type.static_shape
    found = _blocks(shape, len(axes))
    if found is None:
        return None
    axis, count = found
    rows = b("reshape", x, shape=(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :]))
    inside = tuple(range(axis + 1, len(axes) + 1))
    partial = b(name, rows, axes=inside, keep=False)
    total = b(name, partial, axes=tuple(range(axis + 1)), keep=False)
    return [total if not node.attrs.keep else b("reshape", total, shape=node.output.shape)]


def _reads_rows(node: Node) -> bool:
    """Whether a reduction is over outermost axes of a row-major value, and long enough."""
    (x,), axes = node.inputs, node.attrs.axes
    if x.layout is not None or node.output.layout is not None or not axes:
        return False
    if not all(isinstance(extent, int) for extent in x.shape):
        return False
    if axes != tuple(range(len(axes))) or accumulated_in(x.dtype) is not x.dtype:
        return False
    shape = x.type.static_shape
    return math.prod(shape) >= LEAST_READ and LANES <= math.prod(shape[len(axes) :]) < WIDEST


def _blocks(shape: Sequence[int], reduced: int) -> tuple[int, int] | None:
    """(the axis that is taken apart, into how many parts), with the axes before it as blocks too;
    None if no extent divides well."""
    rows = math.prod(shape[:reduced])
    most = min(MOST_BLOCKS, math.prod(shape) // LEAST_BLOCK, rows // LEAST_ROWS)
    blocks = 1
    for axis, extent in enumerate(shape[:reduced]):
        for parts in range(min(most // blocks, extent), 0, -1):
            if extent % parts == 0 and blocks * parts >= LEAST_BLOCKS:
                return axis, parts
        blocks *= extent
        if blocks > most:
            return None
    return None
