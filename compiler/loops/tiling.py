"""An iteration space -> how it is tiled: lanes, rows and columns of a register tile, work items,
chains of a sum.

Only choices are made here, no statements (emit.py makes those from the plan). Which axis gives
lanes, rows and columns is read off the operands' indices, so matmuls, convolutions in every layout
and all their gradients share this one file. The order of every sum depends on shapes only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .. import dim
from ..dim import Dim
from .ahead import NEAR
from .axes import join_axes
from .elements import Axis, accumulated_in
from .ir import LANE, LANES, Load, variable
from .items import with_items
from .plan import CHAIN, LEAST_ITEMS, Chains, Machine, Plan, Tile, divisor, is_large, operands
from .space import Space, Substitution, split_lanes
from .strides import FAR, MOST_STEP, depends, lane_slope, overlaps, stride
from .tile_counts import MOST_ROWS, filled, tile_counts

MORE_FILLED = 1.15  # how many times better a tile is that is worth places found one by one
ENOUGH_ROWS = 7  # positions of an axis that fill the rows of a tile
FEWEST_ROWS = 4  # of one that is better than a free dim that may be 1
MOST_VECTORS = 8  # along a short axis, that are copied out
MOST_TERMS = 16  # of such a sum, that are copied out too
# of a tile whose rows are each read for themselves; how many bytes apart that is
FEW_ROWS, FAR_ROWS = 8, 1 << 10
MOST_SUMS = 10  # in registers at a time, where nothing is broadcast
FOLD_WORK = 8  # instructions that adding the lanes of one vector costs
SYMBOLIC_TERMS = 1 << 12  # of a sum whose length is a free dim
LEAST_STREAMED, LEAST_TERMS = 1 << 16, 16  # elements, and rows, of a sum read row after row
LEAST_RUN = 8  # vectors of a row that a work item should read
NEIGHBOURS = 8  # vectors that are read together and stored far apart


def plan_tiles(space: Space, machine: Machine) -> Plan:
    """The plan for a space on a machine."""
    lanes = _lane_axis(space)
    lanes_reduce = lanes in space.reduce
    if lanes is not None:
        space = split_lanes(space, lanes)
    if lanes is not None and not lanes_reduce:
        space = _with_longer_rows(space, machine)
    tile = _tile(space, lanes is not None, lanes_reduce, machine, lanes)
    row = streamed_row(space, tile)
    chains = _chains(space, CHAIN if row is None else _rows_at_once(space))
    if not tile.copied_terms:
        tile = replace(tile, copied_terms=_overlapping_terms(space, tile, chains, machine))
    plan = with_items(space, tile, chains, row)
    bypasses_cache = space.elements.compute is None and is_large(space.elements.out, machine)
    return replace(plan, bypasses_cache=bypasses_cache, parts_last=not machine.has_masks)


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
        apart = lane_slope(Load(*space.stored_at(Substitution({}))), axis.symbol, split)
        is_gathered = any(step not in (0, 1) for step in steps)
        # stored once for all of its terms
        cost += (0.2 / LANES if apart == 1 else 1.0) / (1 if is_gathered else terms)
    else:
        cost += 0.2 / LANES
        cost *= 1 + FOLD_WORK * LANES / terms
    return cost / (1 + len(space.loads)) / filled(axis, LANES)


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
    if space.elements.compute is None and has_lanes:
        return _together_as_read(space, plain)
    if not has_lanes:
        return plain
    vectors, scalars = operands(space)
    if lanes_reduce:
        vectors, scalars = vectors[:1], vectors[1:]
    if not vectors or (lanes_reduce and not scalars):
        return plain
    room = machine.vectors_of(space.elements.out.dtype)
    if scalars:
        row = _nearest(
            [a for a in space.pure if not any(depends(v, a.symbol) for v in vectors)], scalars
        )
        column = _column(space, (row,), scalars)
    else:
        column = next((axis for axis in space.pure if _is_copied_out(axis, lanes, room)), None)
        if column is None and (tile := _cut_row(space, plain, lanes, min(room, MOST_SUMS))):
            return tile
        partial = dim.symbols_of(
            [g for g in (*space.guards, *space.store_guard) if LANE in dim.symbols_of([g])]
        )
        able = [a for a in space.pure if a is not column and a.symbol not in partial]
        row = _nearest(_under_windows(space, able, vectors) or able, vectors)
    if scalars or column is None:
        most = _most_rows(scalars, row, column)
        rows, columns, _ = tile_counts(row, column, room if scalars else min(room, MOST_SUMS), most)
    else:
        assert isinstance(column.extent, int)
        columns = column.extent
        # an axis without elements makes the product 0, whatever the free ones are
        terms = [axis.extent for axis in space.reduce if isinstance(axis.extent, int)]
        is_known = len(terms) == len(space.reduce)
        copied = len(terms) if is_known and math.prod(terms) <= MOST_TERMS else 0
        plain = replace(plain, copied_terms=copied)
        most = min(MOST_SUMS // columns, (room - 1) // columns - 1)
        rows = tile_counts(row, None, most + 2).rows
    used_row, used_column = row if rows > 1 else None, column if columns > 1 else None
    counts = {
        axis.symbol: size for axis, size in ((used_row, rows), (used_column, columns)) if axis
    }
    return replace(plain, rows=used_row, columns=used_column, counts=counts)


def _with_longer_rows(space: Space, machine: Machine) -> Space:
    """The space with the two axes of an image as one, where the rows of tiles then fill more of
    it: the places of their elements are found once for all terms of a tile."""
    if space.elements.compute is None or any(load.index_expressions for load in space.reads):
        return space
    vectors, scalars = operands(space)
    able = [a for a in space.pure if not any(depends(v, a.symbol) for v in vectors)]
    row = _nearest(able, scalars) if vectors and scalars else None
    place = space.pure.index(row) if row is not None else 0
    first = space.pure[place - 1] if place else None
    if row is None or first not in able or _is_short_or_free(first) or _is_short_or_free(row):
        return space
    if any({row.symbol, first.symbol} & dim.symbols_of([guard]) for guard in space.guards):
        return space
    joined, both = join_axes(space, first, row)
    room = machine.vectors_of(space.elements.out.dtype)
    column = _column(space, (first, row), scalars)
    apart, together = (tile_counts(axis, column, room).score for axis in (row, both))
    return joined if together > MORE_FILLED * apart else space


def _column(space: Space, rows: Sequence[Axis | None], scalars: Sequence[Load]) -> Axis | None:
    """The longest axis, but for those, along which nothing that is broadcast changes."""
    return _largest(
        a for a in space.pure if a not in rows and not any(depends(s, a.symbol) for s in scalars)
    )


def _is_short_or_free(axis: Axis | None) -> bool:
    return axis is None or not isinstance(axis.extent, int) or axis.extent < 2


def _together_as_read(space: Space, plain: Tile) -> Tile:
    """Of a kernel that only moves numbers, vectors that lie behind each other where they are read
    and far apart where they are stored (rows that go into panels): one by one, in the order of the
    output, each would be read from a page of its own, and nothing would be fetched ahead."""
    axes = [axis for axis in space.pure if axis.extent != 1]
    if len(space.loads) != 1 or len(axes) < 2:
        return plain
    (read,), stored = space.loads, Load(*space.stored_at(Substitution({})))
    if stride(read, axes[-1]) * read.dtype.bytes < FAR_ROWS:
        return plain
    for axis in axes[:-1]:
        is_apart = stride(stored, axis) * read.dtype.bytes >= FAR_ROWS
        if isinstance(axis.extent, int) and stride(read, axis) == LANES and is_apart:
            counts = {axis.symbol: min(NEIGHBOURS, axis.extent)}
            return replace(plain, columns=axis, counts=counts)
    return plain


def _cut_row(space: Space, plain: Tile, lanes: Axis | None, most: int) -> Tile | None:
    """The tile of a streamed sum whose last vector of a row is not full: so many vectors that this
    one is in the smaller tile at the end, and only there conditions are tested."""
    row = next((a for a in space.pure if lanes is not None and a.name == f"{lanes.name}v"), None)
    if row is None or not isinstance(row.extent, int) or not space.store_guard:
        return None
    counts = (n for n in range(min(most, row.extent - 1), 1, -1) if row.extent % n)
    if (count := next(counts, None)) is None:
        return None
    tile = replace(plain, rows=row, counts={row.symbol: count})
    return tile if streamed_row(space, tile) else None


def _is_copied_out(axis: Axis, lanes: Axis | None, room: int) -> bool:
    """Whether an axis numbers the vectors along a short axis: copied out, they are read together,
    and it is known when compiling which of their lanes run."""
    is_outer = lanes is not None and axis.name == f"{lanes.name}v"
    return (
        is_outer
        and isinstance(axis.extent, int)
        and axis.extent <= min(MOST_VECTORS, (room - 1) // 2)
    )


def _most_rows(scalars: Sequence[Load], row: Axis | None, column: Axis | None) -> int:
    """Rows of a tile that has no columns: as many as lie in one set of the L1 cache, where they
    are far apart in memory. More save nothing, for each product needs a load of its own, and
    rows a power of two apart would push each other out."""
    if row is None or column is not None:
        return MOST_ROWS
    is_far = any(stride(load, row) * load.dtype.bytes >= FAR_ROWS for load in scalars)
    return FEW_ROWS if is_far else MOST_ROWS


def _under_windows(space: Space, axes: Sequence[Axis], vectors: Sequence[Load]) -> list[Axis]:
    """Those axes of an image of free size along which windows of one operand overlap and another
    one is the same: rows there share what they read, and those of other channels do not."""
    if not any(isinstance(axis.extent, Dim) for axis in space.pure):
        return []
    return [
        axis
        for axis in axes
        if (isinstance(axis.extent, Dim) or axis.extent >= ENOUGH_ROWS)
        and not all(depends(load, axis.symbol) for load in vectors)
        and any(overlaps(load, axis, term) for load in vectors for term in space.reduce)
    ]


def _largest(axes: Iterable[Axis]) -> Axis | None:
    """The longest axis of those long enough for a tile, else a free dim: a batch is often 1."""

    def order(axis: Axis) -> tuple[bool, int]:
        known = axis.extent if isinstance(axis.extent, int) else 0
        return known < ENOUGH_ROWS, -(known or ENOUGH_ROWS)

    found = sorted(axes, key=order)
    return found[0] if found and found[0].extent != 1 else None


def _nearest(axes: Sequence[Axis], loads: Sequence[Load]) -> Axis | None:
    """The axis along which operands lie closest together, of those long enough for a tile: of
    known extents, else of free dims and shorter ones; else the longest.

    Among free dims that is the width of an image, not the batch, which is often 1.
    """
    known = [a for a in axes if isinstance(a.extent, int) and a.extent >= ENOUGH_ROWS]
    inner_first = [
        a for a in reversed(axes) if isinstance(a.extent, Dim) or a.extent >= FEWEST_ROWS
    ]
    if long := known or inner_first:
        return min(long, key=lambda axis: sum(stride(load, axis) for load in loads))
    return _largest(axes)


# -- sums ------------------------------------------------------------------------------------------


def _overlapping_terms(space: Space, tile: Tile, chains: Chains, machine: Machine) -> int:
    """How many of the innermost loops over terms are copied out, so that a tile loads once what
    its rows or columns read of overlapping windows (depthwise convolutions): those inside the one
    along which windows overlap, and it, where registers hold what one result reads. Where they do
    not, few terms along the lanes: it is then known which lanes of each lie behind an edge."""
    axes = [axis for axis in (tile.rows, tile.columns) if axis is not None]
    compute = space.elements.compute
    if compute is None or compute.combine != "add" or chains.outer or len(axes) != 1:
        return 0
    vectors, scalars = operands(space)
    if not scalars and _waits_for_memory(space, vectors):
        return 0
    places = [
        place
        for place, axis in enumerate(chains.inner)
        if any(overlaps(load, axes[0], axis) for load in vectors)
    ]
    if tile.lanes_reduce or not places:
        return 0
    copied = chains.inner[places[-1] :]
    terms = dim.product([axis.extent for axis in copied])
    held = tile.counts[axes[0].symbol]
    room = machine.vectors_of(space.elements.out.dtype) - held
    if not isinstance(terms, int):
        return 0
    is_held = 2 * terms <= room or (terms <= MOST_TERMS and _reaches_over_edges(space, copied))
    return len(copied) if is_held else 0


def _reaches_over_edges(space: Space, terms: Sequence[Axis]) -> bool:
    """Whether it depends on some loops over terms which lanes of an operand lie inside an axis of
    known extent."""
    symbols = {axis.symbol for axis in terms}
    return any(
        LANE in found and found & symbols and None not in dim.bounds(condition)
        for condition in space.guards
        if (found := set(dim.symbols_of([condition])))
    )


def _waits_for_memory(space: Space, vectors: Sequence[Load]) -> bool:
    """Whether an operand of few terms is known to come from beyond the L2 cache: memory then takes
    the time, and loops that meet its lines again are as fast or faster."""
    terms = dim.product([axis.extent for axis in space.reduce])
    sizes = [(dim.product(load.buffer.shape), load.dtype.bytes) for load in vectors]
    is_far = any(isinstance(size, int) and size * bytes_ > NEAR for size, bytes_ in sizes)
    return is_far and isinstance(terms, int) and terms <= MOST_TERMS


def streamed_row(space: Space, tile: Tile) -> Axis | None:
    """The axis of vectors along which the operands of a long sum lie in memory, where each term of
    a result is in another row of theirs: rows are then read one after another, whole."""
    row, terms = tile.rows, dim.product([axis.extent for axis in space.reduce])
    if space.elements.compute is None or not tile.has_lanes or tile.lanes_reduce:
        return None
    if row is None or tile.columns is not None or not isinstance(row.extent, int):
        return None
    width = LANES * row.extent
    vectors, scalars = operands(space)
    if scalars or not isinstance(terms, int) or terms < LEAST_TERMS:
        return None
    others = dim.product([axis.extent for axis in space.pure if axis is not row])
    items = others * (row.extent // LEAST_RUN)
    if terms * width < LEAST_STREAMED or (isinstance(items, int) and items < LEAST_ITEMS):
        return None
    steps = [stride(load, space.reduce[-1]) for load in vectors]
    is_row = all(stride(load, row) == LANES for load in vectors)
    return row if is_row and all(width - LANES < step < FAR for step in steps if step) else None


def _rows_at_once(space: Space) -> int:
    """How many rows of a streamed sum are added up in registers at a time: one, so that memory is
    read in order, unless that makes a chain longer than CHAIN."""
    terms = dim.product([axis.extent for axis in space.reduce])
    assert isinstance(terms, int)
    return min(-(-terms // CHAIN), CHAIN)


def _chains(space: Space, most_terms: int) -> Chains:
    """The loops of the sum, with at most so many terms in the inner ones; an axis may be taken
    apart for it.
    """
    compute = space.elements.compute
    if compute is None:
        return Chains()
    has_any_length = compute.combine != "add" or not accumulated_in(space.term.dtype).is_float
    if has_any_length and most_terms == CHAIN:
        return Chains(inner=space.reduce)
    outer = list(space.reduce)
    inner: list[Axis] = []
    length = 1
    while (
        outer
        and (most := dim.bounds(outer[-1].extent)[1]) is not None
        and length * most <= most_terms
    ):
        inner.insert(0, outer.pop())
        length *= max(most, 1)
    if not outer or (step := most_terms // length) <= 1:
        return Chains(tuple(outer), tuple(inner))
    axis = outer.pop()
    step = divisor(axis.extent, step)
    chunk = Axis.of(f"{axis.name}o", dim.ceil_div(axis.extent, step))
    part = Axis.of(f"{axis.name}i", dim.minimum(step, axis.extent - chunk.position * step))
    return Chains(
        (*outer, chunk), (part, *inner), {axis.symbol: chunk.position * step + part.position}
    )


__all__ = ["plan_tiles", "streamed_row"]
