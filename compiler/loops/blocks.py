"""A block of a long sum: a part of the rows and of the columns of tiles, whose results a work item
keeps while it goes through the terms (Goto and van de Geijn 2008, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from .. import dim
from .elements import Axis
from .ir import LANES
from .plan import (
    LEAST_ITEMS,
    Chains,
    Tile,
    bytes_of,
    divisor,
    fewest_tiles,
    operands,
    tiles_along,
)
from .space import Space, chunked
from .strides import depends

NEAR_ROWS = 192 << 10  # bytes that the rows of a block read of a chunk of terms, in small caches


def block_of(
    space: Space, tile: Tile, chains: Chains, order: Sequence[Axis], room: int
) -> tuple[Space, Tile, list[Axis], list[Axis]]:
    """(space, tile, axes of items, axes inside an item): where neither rows nor columns fit an
    item, a part of both, as nearly square as can be, which reads least for each result (Goto and
    van de Geijn 2008, section 4)."""
    rows, columns = tile.rows, tile.columns or _only_vectors_walk(space, order)
    outer = list(order)
    if (
        rows is None
        or columns is None
        or not (isinstance(rows.extent, int) and isinstance(columns.extent, int))
    ):
        return space, tile, outer, []
    near_rows = room
    if tile.columns is None:  # few registers, and small caches
        near_rows = NEAR_ROWS // max(_bytes_a_row(space, chains) * tile.counts[rows.symbol], 1)
    rest = fewest_tiles(tile, [axis for axis in order if axis is not rows and axis is not columns])
    while True:
        fitting = _in_block(tile, rows, columns, room, near_rows)
        if fitting is None:
            return space, tile, outer, []
        chunks = {
            rows: chunk_of(tile, rows, fitting[0]),
            columns: chunk_of(tile, columns, fitting[1]),
        }
        if not all(chunks.values()):
            return space, tile, outer, []
        blocks = dim.product([dim.ceil_div(axis.extent, chunk) for axis, chunk in chunks.items()])
        assert isinstance(blocks, int)
        if rest * blocks >= LEAST_ITEMS:
            break
        room //= 2
    parts: dict[Axis, Axis] = {}
    for axis, chunk in chunks.items():
        space, whole, parts[axis] = chunked(space, axis, chunk)
        outer[outer.index(axis)] = whole
        tile = along_part(tile, axis, parts[axis])
    return space, tile, outer, [parts[axis] for axis in order if axis in parts]


def _in_block(
    tile: Tile, rows: Axis, columns: Axis, room: int, near_rows: int
) -> tuple[int, int] | None:
    """How many tiles along rows and columns a block has; None if the rows fit it whole, or the
    columns of a tile that has several."""
    most_rows, most_columns = most_tiles(tile, rows), most_tiles(tile, columns)
    shape = tile.counts[rows.symbol] / (tile.counts.get(columns.symbol, 1) * LANES)
    in_columns = min(max(math.isqrt(int(room * shape)), 1), most_columns)
    in_rows = max(min(room // in_columns, most_rows, near_rows), 1)
    in_columns = min(room // in_rows, most_columns)
    if in_rows == most_rows or (in_columns == most_columns and tile.columns is not None):
        return None
    return in_rows, in_columns


def _bytes_a_row(space: Space, chains: Chains) -> int:
    """What a chunk of terms reads of a broadcast operand for one row of results, windows that share
    elements taken into account; 0 if that is not known."""
    found = 0
    for load in operands(space)[1]:
        walked = [axis for axis in space.pure if depends(load, axis.symbol)]
        results, terms = (dim.product([a.extent for a in axes]) for axes in (walked, space.reduce))
        inner = dim.bounds(dim.product([axis.extent for axis in chains.inner]))[1]
        if isinstance(results, int) and isinstance(terms, int) and inner is not None:
            found = max(found, bytes_of(load.buffer) * inner // max(results * terms, 1))
    return found


def _only_vectors_walk(space: Space, axes: Sequence[Axis]) -> Axis | None:
    """The longest of the axes along which nothing that is broadcast changes: the columns of a tile
    that has one vector of them."""
    _, scalars = operands(space)
    known = [axis for axis in axes if isinstance(axis.extent, int)]
    able = [axis for axis in known if not any(depends(load, axis.symbol) for load in scalars)]
    return max(able, key=lambda axis: dim.bounds(axis.extent)[1] or 0, default=None)


def along_part(tile: Tile, axis: Axis, part: Axis) -> Tile:
    """The tile with its rows or columns along a part of the axis that they lay along."""
    counts = {
        part.symbol if symbol == axis.symbol else symbol: size
        for symbol, size in tile.counts.items()
    }
    rows, columns = (part if found == axis else found for found in (tile.rows, tile.columns))
    return replace(tile, rows=rows, columns=columns, counts=counts)


def chunk_of(tile: Tile, axis: Axis, most: int) -> int:
    """The elements of at most so many tiles whose last chunk holds a whole tile too, so that none
    of its loops is empty; 0 if there is no such number."""
    size, extent = tile.counts.get(axis.symbol, 1), axis.extent
    assert isinstance(extent, int)
    candidates: list[int] = [divisor(most_tiles(tile, axis), most), *range(most, 0, -1)]
    for tiles in candidates:
        rest = extent % (size * tiles)
        if rest == 0 or rest >= size:
            return size * tiles
    return 0


def most_tiles(tile: Tile, axis: Axis) -> int:
    """The tiles along an axis, at most."""
    most = dim.bounds(tiles_along(tile, axis))[1]
    assert most is not None
    return most


__all__ = ["along_part", "block_of", "chunk_of", "most_tiles"]
