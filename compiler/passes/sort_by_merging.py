"""Long lines are sorted by merging: sort_positions and inverse_positions, which compare all pairs,
become keys that hold their place, a merge sort, and the places that sorted keys hold.

order(x) = merge_sort(order_keys(x)) mod 2^32, and for numbers of 64 bits order(upper half, taken in
the order of the lower half). The inverse of a permutation is its order, and
sort_positions(x) = inverse(order(x)). Results are the same numbers.

If only the first few of a line are wanted, they are listed in one pass over it; of more than a list
takes, it is found out which they are, and these are sorted (``first_places``).
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

SHORT_LIST = 128  # first elements that are listed wherever they are half of a line at most
LONGEST_LIST = 1024  # a longer list is kept for lines in which few elements change it
LEAST_LISTED = 32  # elements of a line that is worth a list
LEAST_CHOSEN = 1024  # elements of a line that is worth finding out which are first
LEAST = 64  # elements of a line: in shorter ones all pairs are compared sooner
_PLACES = (1 << 32) - 1  # the bits of a key that hold its place


def sort_by_merging(graph: Graph) -> Graph:
    """The graph without comparisons of all pairs of long lines."""
    ordered = rewrite(graph, _ordered)
    return rewrite(eliminate_dead(ordered) if ordered is not graph else graph, _positions)


def _ordered(b: Rewriter, node: Node) -> Sequence[Value] | None:
    """The order of what was sorted, or of places: they are a permutation."""
    if node.op.name != "inverse_positions":
        return None
    (x,), axis, size = node.inputs, node.attrs.axis, node.attrs.size
    before = b.producers.get(x)
    if before is not None and before.op.name == "sort_positions" and before.attrs.axis == axis:
        line = _exchanged(b, before.inputs[0], axis)
        found = _first_in_order(b, line, before.attrs.descending, size)
    elif _is_long(x.shape[axis]):
        found = _first(b, _inverse(b, _exchanged(b, x, axis)), x.type.rank - 1, size)
    else:
        return None
    return None if found is None else [_exchanged(b, found, axis)]


def _first_in_order(b: Rewriter, line: Value, descending: bool, size: Extent) -> Value | None:
    """The places of the first elements of each line; None where all pairs are compared sooner."""
    if _is_listed(line.shape[-1], size):
        return b("first_places", line, size=size, descending=descending)
    if not _is_long(line.shape[-1]):
        return None
    if _is_chosen(line.shape[-1], size):
        places = b("first_places", line, size=size, descending=descending, is_ranked=False)
        axis = line.type.rank - 1
        order = order_of(b, b("gather_elements", line, places, axis=axis), descending)
        return b("gather_elements", places, order, axis=axis)
    return _first(b, order_of(b, line, descending), line.type.rank - 1, size)


def _positions(b: Rewriter, node: Node) -> Sequence[Value] | None:
    """The positions that something else reads."""
    axis = node.attrs.axis if node.op.name == "sort_positions" else None
    if axis is None or not _is_long(node.inputs[0].shape[axis]):
        return None
    line = _exchanged(b, node.inputs[0], axis)
    return [_exchanged(b, _inverse(b, order_of(b, line, node.attrs.descending)), axis)]


def _is_long(extent: Extent) -> bool:
    most = dim.bounds(extent)[1]
    return most is None or most >= LEAST


def _is_listed(extent: Extent, size: Extent) -> bool:
    """Whether so few of a line are wanted that they are listed."""
    if not isinstance(size, int) or not 0 < size <= LONGEST_LIST:
        return False
    most = dim.bounds(extent)[1]
    # of a list each of about k ln(n / k) elements moves k / 2 others
    least = max(LEAST_LISTED, 2 * size if size <= SHORT_LIST else size * size // 8)
    return (most is None or most >= least) and dim.is_nonnegative(extent - size)


def _is_chosen(extent: Extent, size: Extent) -> bool:
    """Whether it is found out which elements of a line are the first, before they are sorted."""
    most = dim.bounds(extent)[1]
    is_long = most is None or most >= LEAST_CHOSEN
    return is_long and isinstance(size, int) and dim.is_nonnegative(extent - 2 * size) and size > 0


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
