"""Work items of a tiled space: which axes they walk, and how much one item does.

An item holds enough work to be worth a turn of a thread. Of long sums it keeps as many results as
fit the cache, so that each chunk of the terms is read once for many of them. The number of items
depends on shapes only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

from .. import dim
from ..dim import Dim, Extent
from .blocks import along_part, block_of, chunk_of, most_tiles
from .elements import Axis
from .ir import LANE, LANES, Load
from .panels import is_panel
from .plan import (
    LEAST_ITEMS,
    SYMBOLIC_STEPS,
    Chains,
    Plan,
    Tile,
    divisor,
    fewest_tiles,
    operands,
    tiles_along,
)
from .space import Space, chunked
from .strides import MOST_STEP, depends

ITEM_WORK = 1 << 14  # multiply-adds or elements that one work item should hold at least
TILES_WORK = 1 << 16  # the same where an item has several tiles of an axis, the last one not full
TOTALS = 2048  # vectors of results that an item keeps while it goes through the terms of long sums
NEAR_BYTES = 320 << 10  # that a chunk of terms reads again and again, at most
NEAR_OPERAND = 512 << 10  # bytes of an operand that stays in the L2 cache while tiles sweep it
ENOUGH_ITEMS = 32  # of products of their own, so that the rows of one need not be shared out
LEAST_ROW = 64  # elements behind each other that are worth a way through memory in another order
ENOUGH_AGAIN = 16  # tiles of rows that read a part of the columns which is kept near
FEW_TERMS = 25  # of a result, which takes as long to store as to compute
ROW_TOTALS = 512  # vectors of a row that an item keeps while it reads row after row


def with_items(space: Space, tile: Tile, chains: Chains, row: Axis | None = None) -> Plan:
    """Work items: tiles of the outer axes; inner axes run inside an item until it holds enough
    work. ``row``: the axis along which operands are read whole, term after term.
    """
    streams = (
        space.elements.compute is not None
        and tile.has_lanes
        and not tile.lanes_reduce
        and not operands(space)[1]
    )
    by_columns = _is_swept_by_columns(space, tile, chains)
    is_in_order = (
        streams or space.elements.compute is None or _is_bound_by_stores(space, tile, chains)
    )
    order = sorted(
        space.pure, key=lambda axis: _item_order(space, tile, axis, is_in_order, by_columns)
    )
    if row is None:
        space, tile, outer, inner = _enough_work(space, tile, order, streams)
    else:
        space, tile, outer, inner = _whole_rows(space, tile, order, row)
    is_summed = space.elements.compute is not None and tile.has_lanes and not tile.lanes_reduce
    if not inner and is_summed and chains.outer:
        space, tile, outer, inner = _kept(space, tile, chains, outer)
    behind = dim.product([axis.extent for axis in inner]) * (LANES if tile.has_lanes else 1)
    is_long = isinstance(behind, Dim) or behind >= LEAST_ROW
    items, swept = _in_order(outer, is_long) if is_in_order else _shared_out(outer, tile.rows)
    together = _rows_together(space, tile, items)
    return Plan(space, tile, chains, tuple(items), tuple(swept), tuple(inner), together=together)


def _is_bound_by_stores(space: Space, tile: Tile, chains: Chains) -> bool:
    """Whether results of a free number, of few terms each, are stored vector after vector of a row,
    or of its phases (depthwise convolutions, those of few channels, products of few columns): in
    their order, the CPU foresees what comes next, and operands are small or read once."""
    terms = dim.product([axis.extent for axis in space.reduce])
    is_along_rows = tile.has_lanes and not tile.lanes_reduce and not chains.outer
    phases = list(takewhile(lambda axis: isinstance(axis.extent, int), reversed(space.pure)))
    has_free_rows = len(phases) < len(space.pure) and _extent(phases) <= MOST_STEP
    return is_along_rows and has_free_rows and isinstance(terms, int) and terms <= FEW_TERMS


def _extent(axes: Sequence[Axis]) -> int:
    """How many positions known axes have together."""
    return math.prod(axis.extent for axis in axes if isinstance(axis.extent, int))


def _rows_together(space: Space, tile: Tile, items: Sequence[Axis]) -> int:
    """How many tiles of free rows follow one another before the columns go on: several where an
    operand that the rows do not walk leaves the L2 cache, so that each part of it is read from
    afar once for them. Known rows run innermost (``_item_order``), but free ones have to be the
    outermost part of an item's number."""
    if len(items) < 2 or items[0] != tile.rows or not isinstance(items[0].extent, Dim):
        return 1
    vectors, scalars = operands(space)
    return ENOUGH_AGAIN if _bytes_walked(space, vectors, scalars) > NEAR_OPERAND else 1


def _in_order(outer: Sequence[Axis], has_long_rows: bool) -> tuple[list[Axis], list[Axis]]:
    """(axes of items, axes swept inside an item) of what is walked in the order of memory. Only one
    axis of items may be free: none where those before it are enough items; else the outermost one,
    or, of two in front of long rows, the second one, for a batch is often 1."""
    free = [place for place, axis in enumerate(outer) if isinstance(axis.extent, Dim)]
    if not free:
        return list(outer), []
    before = list(outer[: free[0]])
    if _extent(before) >= LEAST_ITEMS:
        return before, list(outer[free[0] :])
    if len(free) == 1:
        return [outer[free[0]], *before, *outer[free[0] + 1 :]], []
    if has_long_rows and free[1] == len(outer) - 1:
        return [outer[-1]], list(outer[:-1])
    known = [axis for axis in outer[: free[1]] if axis is not outer[free[0]]]
    return [outer[free[0]], *known], list(outer[free[1] :])


def _shared_out(outer: Sequence[Axis], rows: Axis | None) -> tuple[list[Axis], list[Axis]]:
    """(axes of items, axes swept inside an item): only the outermost one of the items may be free.
    Rows that are not the outermost axis are swept."""
    free = [axis for axis in outer if isinstance(axis.extent, Dim)]
    if len(free) == 1 and free[0] == rows and outer[0] != rows:
        place = list(outer).index(free[0])
        return list(outer[:place]), list(outer[place:])
    return [*free[:1], *(axis for axis in outer if axis not in free)], free[:0:-1]


def _enough_work(
    space: Space, tile: Tile, order: Sequence[Axis], streams: bool
) -> tuple[Space, Tile, list[Axis], list[Axis]]:
    """(space, tile, axes of items, axes inside an item), with ITEM_WORK in an item, if the axes
    behind symbolic ones hold as much. Rows are cut between tiles, but only where nothing is read
    twice."""
    work = LANES if tile.has_lanes else 1
    for extent in (*(axis.extent for axis in space.reduce), *tile.counts.values()):
        work *= extent if isinstance(extent, int) else SYMBOLIC_STEPS
    outer = list(order)
    inner: list[Axis] = []
    while outer and isinstance(extent := outer[-1].extent, int) and work < ITEM_WORK:
        axis = outer.pop()
        size = tile.counts.get(axis.symbol, 1)
        wanted = -(-(ITEM_WORK if size == 1 or streams else TILES_WORK) // max(work, 1))
        if size == 1:
            chunk = divisor(extent, wanted)
        else:
            chunk = 0 if streams and axis != tile.rows else chunk_of(tile, axis, wanted)
        if chunk and extent >= 2 * chunk:
            space, whole, part = chunked(space, axis, chunk)
            return space, along_part(tile, axis, part), [*outer, whole], [part, *inner]
        inner.insert(0, axis)
        work *= -(-extent // size)
    return space, tile, outer, inner


def _whole_rows(
    space: Space, tile: Tile, order: Sequence[Axis], row: Axis
) -> tuple[Space, Tile, list[Axis], list[Axis]]:
    """(space, tile, axes of items, axes inside an item): as much of a row in an item as it can
    keep, if LEAST_ITEMS are left."""
    assert isinstance(row.extent, int)
    others = [axis for axis in order if axis is not row]
    parts = -(-LEAST_ITEMS // fewest_tiles(tile, others))
    most = min(ROW_TOTALS, -(-row.extent // parts))
    chunk = chunk_of(tile, row, max(most // tile.counts[row.symbol], 1))
    if most == row.extent or not 0 < chunk < row.extent:
        return space, tile, others, [row]
    space, whole, part = chunked(space, row, chunk)
    return space, along_part(tile, row, part), [*others, whole], [part]


def _kept(
    space: Space, tile: Tile, chains: Chains, order: Sequence[Axis]
) -> tuple[Space, Tile, list[Axis], list[Axis]]:
    """(space, tile, axes of items, axes inside an item) of a long sum: as many results inside as
    TOTALS can keep while items are left. Each chunk of the terms is then read once for many
    results."""
    room = TOTALS // math.prod(tile.counts.values())
    space, tile, outer, inner = block_of(space, tile, chains, order, room)
    if inner:
        return space, tile, outer, inner
    space, tile, outer, inner = _near_columns(space, tile, chains, outer)
    if _rows_together(space, tile, outer) > 1:
        return space, tile, outer, inner
    for axis in inner:
        room //= most_tiles(tile, axis)
    while outer and isinstance(extent := outer[-1].extent, int):
        axis = outer[-1]
        size = tile.counts.get(axis.symbol, 1)
        room *= size
        chunk = min(room, extent // -(-LEAST_ITEMS // fewest_tiles(tile, outer[:-1])))
        if chunk < extent and size > 1:  # of whole tiles: others would be made row by row
            chunk = (
                chunk_of(tile, axis, chunk // size) if chunk >= size and extent % size == 0 else 0
            )
        is_of_chunks = any(axis.symbol in dim.symbols_of([found.extent]) for found in inner)
        if chunk < extent and (chunk < 2 or is_of_chunks):  # chunks are not cut again
            break
        outer.pop()
        if chunk < extent:
            chunk = divisor(extent, chunk) if size == 1 else chunk
            space, whole, part = chunked(space, axis, chunk)
            tile = along_part(tile, axis, part)
            return space, tile, [*outer, whole], [part, *inner]
        inner.insert(0, axis)
        room //= extent
    return space, tile, outer, inner


def _near_columns(
    space: Space, tile: Tile, chains: Chains, order: Sequence[Axis]
) -> tuple[Space, Tile, list[Axis], list[Axis]]:
    """(space, tile, axes of items, axes inside an item) where columns run innermost: so many that
    what a chunk of terms reads for them stays in the L2 cache beside all else, if there are
    rows enough to read it again."""
    outer, columns = list(order), tile.columns
    terms = dim.product([axis.extent for axis in chains.inner])
    if columns is None or outer[-1] is not columns or not isinstance(terms, int):
        return space, tile, outer, []
    bytes_ = terms * LANES * space.elements.out.dtype.bytes * tile.counts[columns.symbol]
    most = most_tiles(tile, columns)
    chunk = (
        chunk_of(tile, columns, max(NEAR_BYTES // bytes_, 1)) if bytes_ * most > NEAR_BYTES else 0
    )
    is_read_again = _are_enough([tiles_along(tile, axis) for axis in outer[:-1]])
    if not chunk or not is_read_again or columns.extent == chunk:
        return space, tile, outer, []
    space, whole, part = chunked(space, columns, chunk)
    place = 1 if isinstance(outer[0].extent, Dim) else 0
    return (
        space,
        along_part(tile, columns, part),
        [*outer[:place], whole, *outer[place:-1]],
        [part],
    )


def _are_enough(tiles: list[Extent]) -> bool:
    """Whether so many tiles read the columns that a part of these is worth keeping near."""
    total = dim.product(tiles)
    return not isinstance(total, int) or total >= ENOUGH_AGAIN


def _item_order(
    space: Space, tile: Tile, axis: Axis, is_in_order: bool, by_columns: bool
) -> tuple[int, int]:
    """Outermost what both operands walk; innermost what only the operand walks that stays in the
    cache. What is read once is read in the order of memory."""
    place = space.pure.index(axis)
    if is_in_order:
        return 0, place
    if isinstance(axis.extent, Dim) and not (axis == tile.rows and _is_batched(space)):
        return -1, 0
    if axis == tile.rows:
        return 3, place
    if axis == tile.columns:
        return 4 if by_columns else 1, place
    return 0 if place == 0 else 2, place


def _is_batched(space: Space) -> bool:
    """Whether products of known number, each with operands of its own, are work items enough: the
    rows of each, a free dim, are then swept inside one item, so that its columns stay near."""
    batch = [axis for axis in space.pure if all(depends(load, axis.symbol) for load in space.loads)]
    extents = [axis.extent for axis in batch]
    known = [extent for extent in extents if isinstance(extent, int)]
    return len(known) == len(extents) and math.prod(known) >= ENOUGH_ITEMS


def _is_swept_by_columns(space: Space, tile: Tile, chains: Chains) -> bool:
    """Whether columns run innermost: the order is better that reads less from beyond the L2 cache.
    An operand that does not stay there is read again for each tile that the other one walks. If
    both stay, or if a part of the columns is kept near (``_near_columns``), rows run innermost where
    columns can be prefetched meanwhile (panels.py), else what takes fewer loads for a term."""
    vectors, scalars = operands(space)
    of_columns, of_rows = _walked(space, vectors, scalars), _walked(space, scalars, vectors)
    again = _read_again(space, tile, vectors, scalars), _read_again(space, tile, scalars, vectors)
    keeps_part = bool(chains.outer) and _are_enough(
        [tiles_along(tile, axis) for axis in space.pure if axis is not tile.columns]
    )
    if any(again) and not keeps_part:
        return again < again[::-1]
    is_hinted = any(is_panel(chains.taken_apart(load), chains.inner) for load in vectors)
    return of_columns < of_rows and (keeps_part or not is_hinted)


def _read_again(space: Space, tile: Tile, loads: Sequence[Load], others: Sequence[Load]) -> int:
    """Bytes of one operand that come from beyond the L2 cache again while the axes that it alone
    walks run innermost."""
    size = _bytes_walked(space, loads, others)
    return size * (_walked(space, others, loads, tile) - 1) if size > NEAR_OPERAND else 0


def _bytes_walked(space: Space, loads: Sequence[Load], others: Sequence[Load]) -> int:
    """Bytes of one operand that are read while the other does not change, along known axes."""
    size = max((load.dtype.bytes for load in loads), default=0)
    size *= LANES if any(depends(load, LANE) for load in loads) else 1
    for axis in space.reduce:
        if any(depends(load, axis.symbol) for load in loads) and isinstance(axis.extent, int):
            size *= axis.extent
    return size * _walked(space, loads, others)


def _walked(
    space: Space, loads: Sequence[Load], others: Sequence[Load], tile: Tile | None = None
) -> int:
    """Elements of one operand, or tiles of them, that the loops walk where the other does not
    change."""
    total = 1
    for axis in space.pure:
        own, other = (
            any(depends(load, axis.symbol) for load in group) for group in (loads, others)
        )
        extent = axis.extent if tile is None else tiles_along(tile, axis)
        if own and not other and isinstance(extent, int):
            total *= extent
    return total
