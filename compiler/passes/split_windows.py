"""Pools over large windows, one axis after the other: max_ij x[i, j] = max_i max_j x[i, j].

A window of k elements along each of two axes then costs 2 k reads for each result instead of k^2.
A mean is one too: the real elements of a window are a grid, so that their number is the product of
those along each axis, and the mean of equally many means is the mean of all. Each pool pads its own
axis.

The first pool goes along one axis and makes as many results along the others as the input has,
which is more than are wanted if those have strides. So the work is counted, and the axis that
leaves the least is taken first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..graph import Graph, Node, Value
from ..ops.pooling import PoolAttrs
from ..rewrite import Rewriter, rewrite

SPLIT = frozenset({"max_pool", "average_pool"})
STORED = 2  # reads that a result between two pools costs besides: it is written, and read anew
LEAST_GAIN = 2  # times fewer reads, which pay for a kernel more


def split_windows(graph: Graph) -> Graph:
    """The graph with pools over large windows as pools along one axis each."""
    return rewrite(graph, _split)


def _split(b: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name not in SPLIT or not _is_exact(node):
        return None
    axes = _axes_in_turn(node.attrs)
    if len(axes) < 2:
        return None
    (x,) = node.inputs
    for group in axes:
        x = b(node.op.name, x, **_along(node.attrs, group))
    return [x]


def _is_exact(node: Node) -> bool:
    """Whether means of means are rounded no further than sums are."""
    dtype = node.output.dtype
    return node.op.name == "max_pool" or (dtype.is_float and dtype.bytes >= 4)


def _axes_in_turn(attrs: PoolAttrs) -> list[tuple[int, ...]]:
    """Groups of axes, each of one pool, in order."""
    groups: list[tuple[int, ...]] = []
    left = tuple(range(len(attrs.kernel)))
    while True:
        axis = min(left, key=lambda axis: _work(attrs, left, axis))
        if LEAST_GAIN * _work(attrs, left, axis) > _reads(attrs, left):
            return [*groups, left]
        groups.append((axis,))
        left = tuple(other for other in left if other != axis)


def _reads(attrs: PoolAttrs, axes: Sequence[int]) -> int:
    """How many elements a window has along these axes."""
    return math.prod(attrs.kernel[axis] for axis in axes)


def _work(attrs: PoolAttrs, axes: Sequence[int], first: int) -> int:
    """Reads for each result of the last pool, if of these axes one is taken first."""
    others = [axis for axis in axes if axis != first]
    between = math.prod(attrs.stride[axis] for axis in others)
    return between * (attrs.kernel[first] + STORED) + _reads(attrs, others)


def _along(attrs: PoolAttrs, axes: Sequence[int]) -> dict[str, Any]:
    """The attributes of the pool along these axes: along others a window is one element."""
    none = {"kernel": 1, "stride": 1, "dilation": 1, "lo": 0, "hi": 0, "extra": 0}

    def part(name: str) -> Any:
        value = getattr(attrs, name)
        if name not in none or not value:
            return value
        return tuple(e if axis in axes else none[name] for axis, e in enumerate(value))

    return {item.name: part(item.name) for item in fields(attrs)}
