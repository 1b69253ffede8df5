"""An iteration space -> how it is tiled: lanes, rows and columns of a register tile, work items,
chains of a sum.

Only choices are made here, no statements (emit.py makes those from the plan). Which axis gives
lanes, rows and columns is read off the operands' indices, so matmuls, convolutions in every layout
and all their gradients share this one file. The number of work items and the order of every sum
depend on shapes only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .. import dim
from ..dim import Dim, Extent, Symbol
from ..tensor_type import DType
from .elements import Axis, accumulated_in
from .ir import LANE, LANES, Load, variable
from .space import Space, chunked, split_lanes
from .strides import MOST_STEP, depends, lane_slope, stride

CHAIN = 512  # longest chain of additions into one accumulator
ENOUGH_ROWS = 12  # positions of an axis that fill the rows of a tile
# vectors of results that a work item keeps while it goes through the terms of long sums
TOTALS = 2048
LEAST_ITEMS = 8  # that such a kernel keeps
ITEM_WORK = 1 << 14  # multiply-adds or elements that one work item should hold at least
MOST_VECTORS = 8  # along a short axis, that are copied out
MOST_TERMS = 16  # of such a sum, that are copied out too
# the same where an item has several tiles of an axis, whose last one is not full
TILES_WORK = 1 << 16
MOST_ROWS = 28  # of a tile
# of a tile whose rows are each read for themselves; how many bytes apart that is
FEW_ROWS, FAR_ROWS = 8, 1 << 10
MOST_SUMS = 10  # in registers at a time, where nothing is broadcast
FOLD_WORK = 8  # instructions that adding the lanes of one vector costs
SYMBOLIC_TERMS = 1 << 12  # of a sum whose length is a free dim
SYMBOLIC_STEPS = 16  # of an axis whose extent is a free dim, in a work item


@dataclass(frozen=True)
class Machine:
    """What tiling needs to know of a CPU: how many 16-lane float32 vectors its registers hold."""

    vectors: int = 32


@dataclass(frozen=True)
class Tile:
    """What is kept in registers: the lanes of vectors, if any, times rows and columns. ``counts``:
    of the axes that give several rows or columns."""

    has_lanes: bool = False
    lanes_reduce: bool = False  # lanes are terms of one sum
    rows: Axis | None = None
    columns: Axis | None = None
    counts: Mapping[Symbol, int] = field(default_factory=dict)
    copies_terms: bool = False  # the loops over the terms of a sum are copied out


@dataclass(frozen=True)
class Chains:
    """The loops of a sum: ``inner`` ones, with at most CHAIN terms, add into registers; ``outer``
    ones add up what these give. ``split``: the position of an axis that was taken apart for it."""

    outer: tuple[Axis, ...] = ()
    inner: tuple[Axis, ...] = ()
    split: Mapping[Symbol, Extent] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A tiled space. Work items decode the ``outer`` axes (outermost first). Inside an item run the
    ``swept`` ones, of any length, and in them the ``inner`` ones, whose results an item may keep
    while it adds up long sums."""

    space: Space
    tile: Tile
    chains: Chains
    outer: tuple[Axis, ...]
    swept: tuple[Axis, ...]
    inner: tuple[Axis, ...]

    @property
    def items(self) -> Extent:
        """How many work items there are."""
        return dim.product([self.tiles(axis) for axis in self.outer])

    def tiles(self, axis: Axis) -> Extent:
        """How many tiles lie along an axis, the last one filled or not."""
        return _tiles(self.tile, axis)

    @property
    def sum_dtype(self) -> DType:
        """What sums are kept in."""
        return accumulated_in(self.space.term.dtype)


def plan_tiles(space: Space, machine: Machine) -> Plan:
    """The plan for a space on a machine."""
    lanes = _lane_axis(space)
    lanes_reduce = lanes in space.reduce
    if lanes is not None:
        space = split_lanes(space, lanes)
    tile = _tile(space, lanes is not None, lanes_reduce, machine, lanes)
    chains = _chains(space)
    return _with_items(space, tile, chains)


# -- lanes -----------------------------------------------------------------------------------------


def _lane_axis(space: Space) -> Axis | None:
    """The axis whose lanes cost least: contiguous or absent in every operand, and long enough."""
    best, cost = None, 1.0  # one lane at a time costs 1 an element
    for axis in (*reversed(space.pure), *reversed(space.reduce)):
        if isinstance(axis.extent, int) and axis.extent < 4:
            continue
        found = _lane_cost(space, axis)
        if found < cost - 1e-9:
            best, cost = axis, found
    return best


def _lane_cost(space: Space, axis: Axis) -> float:
    """What an element costs with lanes along an axis, where one lane at a time costs 1."""
    split = {
        axis.symbol: Dim.of(variable("q", dim.ceil_div(axis.extent, LANES))) * LANES + Dim.of(LANE)
    }
    steps = [lane_slope(load, axis.symbol, split) for load in space.loads]
    cost = sum(map(_load_cost, steps))
    found = dim.product([a.extent for a in space.reduce])
    terms = max(found, 1) if isinstance(found, int) else SYMBOLIC_TERMS
    if axis in space.pure:
        apart = dim.product(space.elements.out.shape[space.pure.index(axis) + 1 :])
        is_gathered = any(step not in (0, 1) for step in steps)
        # stored once for all of its terms
        cost += 0.2 / LANES if apart == 1 else 1.0 / (1 if is_gathered else terms)
    else:
        cost += 0.2 / LANES
        cost *= 1 + FOLD_WORK * LANES / terms
    return cost / (1 + len(space.loads)) / _filled(axis, LANES)


def _load_cost(step: int | None) -> float:
    """What a lane of a load costs whose elements lie so far apart: some vectors and shuffles, or
    one lane at a time.
    """
    if step is None or not 0 <= step <= MOST_STEP:
        return 1.0
    return (0.1 if step == 0 else 0.2 if step == 1 else 0.4 * step) / LANES


# -- rows and columns ------------------------------------------------------------------------------


def _tile(
    space: Space, has_lanes: bool, lanes_reduce: bool, machine: Machine, lanes: Axis | None
) -> Tile:
    """Rows reuse the vectors, columns reuse the broadcasts; both fit the registers. Where nothing
    is broadcast (depthwise convolutions, pooling), rows are sums that do not wait for each
    other."""
    plain = Tile(has_lanes, lanes_reduce)
    if space.elements.compute is None or not has_lanes:
        return plain
    vectors, scalars = _operands(space)
    if lanes_reduce:
        vectors, scalars = vectors[:1], vectors[1:]
    if not vectors or (lanes_reduce and not scalars):
        return plain
    room = machine.vectors // 2 if space.elements.out.dtype.bytes > 4 else machine.vectors
    if scalars:
        row = _nearest(
            [a for a in space.pure if not any(depends(v, a.symbol) for v in vectors)], scalars
        )
        column = _largest(
            a for a in space.pure if a is not row and not any(depends(s, a.symbol) for s in scalars)
        )
    else:
        column = next((axis for axis in space.pure if _is_copied_out(axis, lanes, room)), None)
        partial = dim.symbols_of(
            [g for g in (*space.guards, *space.store_guard) if LANE in dim.symbols_of([g])]
        )
        row = _nearest(
            [a for a in space.pure if a is not column and a.symbol not in partial], vectors
        )
    if scalars or column is None:
        most = _most_rows(scalars, row, column)
        rows, columns = row_and_column_counts(
            row, column, room if scalars else min(room, MOST_SUMS), most
        )
    else:
        assert isinstance(column.extent, int)
        columns = column.extent
        terms = dim.product([axis.extent for axis in space.reduce])
        plain = replace(plain, copies_terms=isinstance(terms, int) and terms <= MOST_TERMS)
        most = min(MOST_SUMS // columns, (room - 1) // columns - 1)
        rows, _ = row_and_column_counts(row, None, most + 2)
    used_row, used_column = row if rows > 1 else None, column if columns > 1 else None
    counts = {
        axis.symbol: size for axis, size in ((used_row, rows), (used_column, columns)) if axis
    }
    return replace(plain, rows=used_row, columns=used_column, counts=counts)


def _is_copied_out(axis: Axis, lanes: Axis | None, room: int) -> bool:
    """Whether an axis numbers the vectors along a short axis: copied out, they are read together,
    and it is known when compiling which of their lanes run."""
    is_outer = lanes is not None and axis.name == f"{lanes.name}v"
    return (
        is_outer
        and isinstance(axis.extent, int)
        and axis.extent <= min(MOST_VECTORS, (room - 1) // 2)
    )


def _operands(space: Space) -> tuple[list[Load], list[Load]]:
    """(operands that are vectors, those that are the same in all lanes)"""
    return [v for v in space.loads if depends(v, LANE)], [
        s for s in space.loads if not depends(s, LANE)
    ]


def _most_rows(scalars: Sequence[Load], row: Axis | None, column: Axis | None) -> int:
    """Rows of a tile that has no columns: as many as lie in one set of the first cache, where they
    are far apart in memory. More save nothing, for each product needs a load of its own, and
    rows a power of two apart would push each other out."""
    if row is None or column is not None:
        return MOST_ROWS
    is_far = any(stride(load, row) * load.dtype.bytes >= FAR_ROWS for load in scalars)
    return FEW_ROWS if is_far else MOST_ROWS


def row_and_column_counts(
    row: Axis | None, column: Axis | None, room: int, most_rows: int = MOST_ROWS
) -> tuple[int, int]:
    """The counts with the most products a load, among those that fit ``room`` vectors and waste
    least at the end of an axis.
    """
    best, best_score = (1, 1), -1.0
    for columns in range(1, 9):
        if not _can_hold(column, columns):
            break
        for rows in range(1, most_rows + 1):
            if not _can_hold(row, rows):
                break
            held = rows * columns
            if held + columns + 1 > room and held > 1:
                break
            score = min(held, 12) / 12 * held / (held + 0.6 * columns + 0.6 * rows)
            score *= _filled(row, rows) * _filled(column, columns)
            if score > best_score + 1e-9:
                best, best_score = (rows, columns), score
    return best


def _can_hold(axis: Axis | None, size: int) -> bool:
    """Whether an axis is as long as a tile."""
    return size == 1 or (axis is not None and (isinstance(axis.extent, Dim) or size <= axis.extent))


def _filled(axis: Axis | None, size: int) -> float:
    """The part of the tiles that is used."""
    if axis is None or not isinstance(axis.extent, int) or axis.extent == 0:
        return 1.0
    return axis.extent / (-(-axis.extent // size) * size)


def _largest(axes: Iterable[Axis]) -> Axis | None:
    found = sorted(axes, key=lambda a: -(a.extent if isinstance(a.extent, int) else 64))
    return found[0] if found and found[0].extent != 1 else None


def _nearest(axes: Sequence[Axis], loads: Sequence[Load]) -> Axis | None:
    """The axis along which operands lie closest together, of those long enough for a tile; else
    the longest.
    """
    long = [axis for axis in axes if isinstance(axis.extent, int) and axis.extent >= ENOUGH_ROWS]
    return (
        min(long, key=lambda axis: sum(stride(load, axis) for load in loads))
        if long
        else _largest(axes)
    )


# -- sums ------------------------------------------------------------------------------------------


def _chains(space: Space) -> Chains:
    """The loops of the sum, with at most CHAIN terms in the inner ones; an axis may be taken
    apart for it.
    """
    compute = space.elements.compute
    if compute is None:
        return Chains()
    has_any_length = compute.combine != "add" or not accumulated_in(space.term.dtype).is_float
    if has_any_length:
        return Chains(inner=space.reduce)
    outer = list(space.reduce)
    inner: list[Axis] = []
    length = 1
    while (
        outer and (most := dim.bounds(outer[-1].extent)[1]) is not None and length * most <= CHAIN
    ):
        inner.insert(0, outer.pop())
        length *= max(most, 1)
    if not outer or (step := CHAIN // length) <= 1:
        return Chains(tuple(outer), tuple(inner))
    axis = outer.pop()
    step = _divisor(axis.extent, step)
    chunk = Axis.of(f"{axis.name}o", dim.ceil_div(axis.extent, step))
    part = Axis.of(f"{axis.name}i", dim.minimum(step, axis.extent - chunk.position * step))
    return Chains(
        (*outer, chunk), (part, *inner), {axis.symbol: chunk.position * step + part.position}
    )


# -- work items ------------------------------------------------------------------------------------


def _with_items(space: Space, tile: Tile, chains: Chains) -> Plan:
    """Work items: tiles of the outer axes; inner axes run inside an item until it holds enough
    work.
    """
    streams = (
        space.elements.compute is not None
        and tile.has_lanes
        and not tile.lanes_reduce
        and not _operands(space)[1]
    )
    order = sorted(space.pure, key=lambda axis: _item_order(space, tile, axis, streams))
    space, tile, outer, inner = _enough_work(space, tile, order, streams)
    is_summed = space.elements.compute is not None and tile.has_lanes and not tile.lanes_reduce
    if not inner and is_summed and chains.outer:
        space, tile, outer, inner = _kept(space, tile, outer)
    symbolic = [axis for axis in outer if isinstance(axis.extent, Dim)]
    swept = symbolic[1:]  # only the outermost axis of the items may have a symbolic extent
    kept = [axis for axis in outer if axis not in swept]
    return Plan(space, tile, chains, tuple(kept), tuple(reversed(swept)), tuple(inner))


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
            chunk = _divisor(extent, wanted)
        else:
            chunk = 0 if streams and axis != tile.rows else _chunk(tile, axis, wanted)
        if chunk and extent >= 2 * chunk:
            space, whole, part = chunked(space, axis, chunk)
            return space, _along_part(tile, axis, part), [*outer, whole], [part, *inner]
        inner.insert(0, axis)
        work *= -(-extent // size)
    return space, tile, outer, inner


def _along_part(tile: Tile, axis: Axis, part: Axis) -> Tile:
    """The tile with its rows or columns along a part of the axis that they lay along."""
    counts = {
        part.symbol if symbol == axis.symbol else symbol: size
        for symbol, size in tile.counts.items()
    }
    rows, columns = (part if found == axis else found for found in (tile.rows, tile.columns))
    return replace(tile, rows=rows, columns=columns, counts=counts)


def _kept(
    space: Space, tile: Tile, order: Sequence[Axis]
) -> tuple[Space, Tile, list[Axis], list[Axis]]:
    """(space, tile, axes of items, axes inside an item) of a long sum: as many results inside as
    TOTALS can keep while items are left. Each chunk of the terms is then read once for many
    results."""
    room = TOTALS // math.prod(tile.counts.values())
    space, tile, outer, inner = _block(space, tile, order, room)
    if inner:
        return space, tile, outer, inner
    while outer and isinstance(extent := outer[-1].extent, int):
        axis = outer[-1]
        size = tile.counts.get(axis.symbol, 1)
        room *= size
        items = dim.product([_tiles(tile, a) for a in outer[:-1]])
        chunk = min(room, extent // -(-LEAST_ITEMS // items) if isinstance(items, int) else extent)
        if chunk < extent and (size > 1 or chunk < 2):
            break
        outer.pop()
        if chunk < extent:
            space, whole, part = chunked(space, axis, _divisor(extent, chunk))
            return space, tile, [*outer, whole], [part, *inner]
        inner.insert(0, axis)
        room //= extent
    return space, tile, outer, inner


def _block(
    space: Space, tile: Tile, order: Sequence[Axis], room: int
) -> tuple[Space, Tile, list[Axis], list[Axis]]:
    """(space, tile, axes of items, axes inside an item): where neither rows nor columns fit an
    item, a part of both, as nearly square as can be, which reads least for each result (Goto and
    van de Geijn 2008, section 4)."""
    rows, columns = tile.rows, tile.columns
    outer = list(order)
    if (
        rows is None
        or columns is None
        or not (isinstance(rows.extent, int) and isinstance(columns.extent, int))
    ):
        return space, tile, outer, []
    most_rows, most_columns = _most_tiles(tile, rows), _most_tiles(tile, columns)
    shape = tile.counts[rows.symbol] / (tile.counts[columns.symbol] * LANES)
    in_columns = min(max(math.isqrt(int(room * shape)), 1), most_columns)
    in_rows = min(room // in_columns, most_rows)
    in_columns = min(room // in_rows, most_columns)
    if in_rows == most_rows or in_columns == most_columns:
        return space, tile, outer, []
    chunks = {rows: _chunk(tile, rows, in_rows), columns: _chunk(tile, columns, in_columns)}
    if not all(chunks.values()):
        return space, tile, outer, []
    parts: dict[Axis, Axis] = {}
    for axis, chunk in chunks.items():
        space, whole, parts[axis] = chunked(space, axis, chunk)
        outer[outer.index(axis)] = whole
        tile = _along_part(tile, axis, parts[axis])
    return space, tile, outer, [parts[axis] for axis in order if axis in parts]


def _chunk(tile: Tile, axis: Axis, most: int) -> int:
    """The elements of at most so many tiles whose last chunk holds a whole tile too, so that none
    of its loops is empty; 0 if there is no such number."""
    size, extent = tile.counts[axis.symbol], axis.extent
    assert isinstance(extent, int)
    candidates: list[int] = [_divisor(_most_tiles(tile, axis), most), *range(most, 0, -1)]
    for tiles in candidates:
        rest = extent % (size * tiles)
        if rest == 0 or rest >= size:
            return size * tiles
    return 0


def _most_tiles(tile: Tile, axis: Axis) -> int:
    """The tiles along an axis, at most."""
    most = dim.bounds(_tiles(tile, axis))[1]
    assert most is not None
    return most


def _tiles(tile: Tile, axis: Axis) -> Extent:
    return dim.ceil_div(axis.extent, tile.counts.get(axis.symbol, 1))


def _item_order(space: Space, tile: Tile, axis: Axis, streams: bool) -> tuple[int, int]:
    """Outermost what both operands walk; innermost what only the smaller operand walks: it stays in
    the cache. What is read once is read in the order of memory."""
    place = space.pure.index(axis)
    if isinstance(axis.extent, Dim):
        return -1, 0
    if streams:
        return 0, place
    if axis == tile.rows:
        return 3, place
    if axis == tile.columns:
        return 4 if _is_swept_by_columns(space) else 1, place
    return 0 if place == 0 else 2, place


def _is_swept_by_columns(space: Space) -> bool:
    """Whether the operand that columns walk is smaller than the one that rows walk."""
    vectors, scalars = _operands(space)
    return _walked(space, vectors, scalars) < _walked(space, scalars, vectors)


def _walked(space: Space, loads: Sequence[Load], others: Sequence[Load]) -> int:
    """Elements of one operand that the loops walk where the other does not change."""
    total = 1
    for axis in space.pure:
        own, other = (
            any(depends(load, axis.symbol) for load in group) for group in (loads, others)
        )
        if own and not other and isinstance(axis.extent, int):
            total *= axis.extent
    return total


def _divisor(extent: Extent, most: int) -> int:
    """The largest divisor of the extent up to ``most``, if it is at least half of it; else
    ``most``.
    """
    if isinstance(extent, int):
        for step in range(most, most // 2, -1):
            if extent % step == 0:
                return step
    return most


__all__ = [
    "CHAIN",
    "ITEM_WORK",
    "TOTALS",
    "Chains",
    "Machine",
    "Plan",
    "Tile",
    "plan_tiles",
    "row_and_column_counts",
]
