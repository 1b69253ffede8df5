"""Long lines are sorted by merging: sort_positions and inverse_positions, which compare all pairs,
become keys that hold their place, a merge sort, and the places that sorted keys hold.

order(x) = merge_sort(order_keys(x)) mod 2^32, and for numbers of 64 bits order(upper half, taken in
the order of the lower half). The inverse of a permutation is its order, and
sort_positions(x) = inverse(order(x)). Results are the same numbers.

If only the first few of a long line are wanted, most of it is not sorted: the k-th of the least
keys of groups is not before the k-th of all keys, so those behind it are left out. How many stay is
a data dim: k and a few in general, all of them at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import dim
from ..dim import Extent
from ..graph import Graph, Node, Value
from ..ops.merging import NO_KEY, Half
from ..rewrite import Rewriter, rewrite
from ..tensor_type import INT32, INT64
from .eliminate_dead import eliminate_dead

GROUPS = 8  # of keys, for each that is wanted
MOST_OF_A_LINE = 64  # a longer part of it than one of so many is not picked out
LEAST_PICKED = 2048  # elements of a line that is worth it
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
    size, before = node.attrs.size, b.producers.get(x)
    if before is not None and before.op.name == "sort_positions" and before.attrs.axis == axis:
        line = _exchanged(b, before.inputs[0], axis)
        if _is_part(line, size):
            keys = b("order_keys", line, descending=before.attrs.descending)
            return [_exchanged(b, _picked(b, keys, size), axis)]
        order = order_of(b, line, before.attrs.descending)
    else:
        order = _inverse(b, _exchanged(b, x, axis))
    return [_exchanged(b, _first(b, order, order.type.rank - 1, size), axis)]


def _positions(b: Rewriter, node: Node) -> Sequence[Value] | None:
    """The positions that something else reads."""
    if node.op.name != "sort_positions" or not _is_long(node):
        return None
    line = _exchanged(b, node.inputs[0], node.attrs.axis)
    order = order_of(b, line, node.attrs.descending)
    return [_exchanged(b, _inverse(b, order), node.attrs.axis)]


def _is_long(node: Node) -> bool:
    most = dim.bounds(node.inputs[0].shape[node.attrs.axis])[1]
    return most is None or most >= LEAST


def _is_part(line: Value, size: Extent) -> bool:
    """Whether so few of a line are wanted that they are picked out of it first."""
    extent = line.shape[-1]
    if not isinstance(extent, int) or not isinstance(size, int) or line.dtype.bytes == 8:
        return False
    return extent >= LEAST_PICKED and 0 < size * MOST_OF_A_LINE <= extent


def _picked(b: Rewriter, keys: Value, size: int) -> Value:
    """The places of the first keys of each line."""
    *lines, extent = keys.shape
    assert isinstance(extent, int)
    axis, groups = len(lines), GROUPS * size
    whole = _first(b, keys, axis, extent // groups * groups)
    parts = b("reshape", whole, shape=(*lines, extent // groups, groups))
    least = b("reduce_min", parts, axes=(axis,))
    last = b("slice", _sorted(b, least), start=(*(0,) * axis, size - 1), size=(*lines, 1),
             step=(1,) * (axis + 1))  # fmt: skip
    is_early = b("less_equal", keys, last)
    counts = b("reduce_sum", b("cast", is_early, dtype=INT64), axes=(axis,), keep=True)
    longest = b("max", b("reduce_max", counts, axes=tuple(range(axis + 1))), 0)
    stays = b.new_data_dim("picked", extent)
    b("data_dim", longest, extent=stays, bound=extent)
    place = b("iota", shape=(*lines, stays), axis=axis)
    is_real = b("less", place, counts)
    found = _first(b, b("true_positions", is_early, size=stays), axis, stays)
    picked = b("gather_elements", keys, b("select", is_real, found, 0), axis=axis)
    ordered = _sorted(b, b("select", is_real, picked, NO_KEY))
    first = b("gather", ordered, b("iota", shape=(size,), axis=0), axis=axis)
    return b("and", first, _PLACES)


def _inverse(b: Rewriter, places: Value) -> Value:
    """Of a permutation of fewer than 2^31 places."""
    return order_of(b, b("cast", places, dtype=INT32), False)


def order_of(b: Rewriter, x: Value, descending: bool) -> Value:
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
    return b("and", _sorted(b, keys), _PLACES)


def _sorted(b: Rewriter, keys: Value) -> Value:
    """Keys in order."""
    rows = b("merge_sort", keys)
    return b("reshape", _first(b, rows, rows.type.rank - 2, 1), shape=keys.shape)


def _first(b: Rewriter, x: Value, axis: int, size: Extent) -> Value:
    """The first entries of an axis."""
    if x.shape[axis] == size:
        return x
    sizes = tuple(size if place == axis else extent for place, extent in enumerate(x.shape))
    return b("slice", x, start=(0,) * x.type.rank, size=sizes, step=(1,) * x.type.rank)


def _exchanged(b: Rewriter, x: Value, axis: int) -> Value:
    """With that axis and the last one exchanged."""
    order = list(range(x.type.rank))
    order[axis], order[-1] = order[-1], order[axis]
    return x if axis == order[axis] else b("transpose", x, permutation=tuple(order))
