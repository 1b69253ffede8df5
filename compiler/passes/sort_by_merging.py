"""Long lines are sorted by merging: sort_positions and inverse_positions, which compare all pairs,
become keys that hold their place, a merge sort, and the places that sorted keys hold.

order(x) = merge_sort(order_keys(x)) mod 2^32, and for numbers of 64 bits order(upper half, taken in
the order of the lower half). The inverse of a permutation is its order, and
sort_positions(x) = inverse(order(x)). Results are the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import dim
from ..dim import Extent
from ..graph import Graph, Node, Value
from ..ops.merging import Half
from ..rewrite import Rewriter, rewrite
from ..tensor_type import INT32
from .eliminate_dead import eliminate_dead

LEAST = 64  # elements of a line: in shorter ones all pairs are compared sooner
_PLACES = (1 << 32) - 1  # the bits of a key that hold its place


def sort_by_merging(graph: Graph) -> Graph:
    """The graph without comparisons of all pairs of long lines."""
    ordered = rewrite(graph, _ordered)
    return rewrite(eliminate_dead(ordered) if ordered is not graph else graph, _positions)


def _ordered(b: Rewriter, node: Node) -> Sequence[Value] | None:
    """The order of what was sorted, or of places: they are a permutation."""
    if node.op.name != "inverse_positions" or not _is_long(node):
        return None
    (x,), axis = node.inputs, node.attrs.axis
    before = b.producers.get(x)
    if before is not None and before.op.name == "sort_positions" and before.attrs.axis == axis:
        line = _turned(b, before.inputs[0], axis)
        order = _order(b, line, before.attrs.descending)
    else:
        order = _inverse(b, _turned(b, x, axis))
    return [_turned(b, _first(b, order, order.type.rank - 1, node.attrs.size), axis)]


def _positions(b: Rewriter, node: Node) -> Sequence[Value] | None:
    """The positions that something else reads."""
    if node.op.name != "sort_positions" or not _is_long(node):
        return None
    line = _turned(b, node.inputs[0], node.attrs.axis)
    order = _order(b, line, node.attrs.descending)
    return [_turned(b, _inverse(b, order), node.attrs.axis)]


def _is_long(node: Node) -> bool:
    most = dim.bounds(node.inputs[0].shape[node.attrs.axis])[1]
    return most is None or most >= LEAST


def _inverse(b: Rewriter, places: Value) -> Value:
    """Of a permutation of fewer than 2^31 places."""
    return _order(b, b("cast", places, dtype=INT32), False)


def _order(b: Rewriter, x: Value, descending: bool) -> Value:
    """Which element of each line comes first, second, .."""
    if x.dtype.bytes < 8:
        return _placed(b, b("order_keys", x, descending=descending))
    axis = x.type.rank - 1
    lower = _placed(b, b("order_keys", x, descending=descending, half=Half.LOWER.value))
    ordered = b("gather_elements", x, lower, axis=axis)
    upper = _placed(b, b("order_keys", ordered, descending=descending, half=Half.UPPER.value))
    return b("gather_elements", lower, upper, axis=axis)


def _placed(b: Rewriter, keys: Value) -> Value:
    """The places in sorted keys."""
    rows = b("merge_sort", keys)
    first = b("reshape", _first(b, rows, rows.type.rank - 2, 1), shape=keys.shape)
    return b("and", first, _PLACES)


def _first(b: Rewriter, x: Value, axis: int, size: Extent) -> Value:
    """The first entries of an axis."""
    if x.shape[axis] == size:
        return x
    sizes = tuple(size if place == axis else extent for place, extent in enumerate(x.shape))
    return b("slice", x, start=(0,) * x.type.rank, size=sizes, step=(1,) * x.type.rank)


def _turned(b: Rewriter, x: Value, axis: int) -> Value:
    """With that axis and the last one exchanged."""
    order = list(range(x.type.rank))
    order[axis], order[-1] = order[-1], order[axis]
    return x if axis == order[axis] else b("transpose", x, permutation=tuple(order))
