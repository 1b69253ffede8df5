"""How many rows and columns a register tile has: as many products a load as fit the registers,
with least waste at the ends of the axes.
"""

from __future__ import annotations

from typing import NamedTuple

from ..dim import Dim
from .elements import Axis

MOST_ROWS = 28  # of a tile
MOST_COLUMNS = 8
ENOUGH_SUMS = 12  # that do not wait for each other
LIKELY_COLUMNS = 4  # vectors, of which the extent of a free dim is likely a multiple


class Counts(NamedTuple):
    """Rows and columns of a tile; ``score``: to be compared with that of other tiles for as many
    vectors, higher is better."""

    rows: int
    columns: int
    score: float


def tile_counts(
    row: Axis | None, column: Axis | None, room: int, most_rows: int = MOST_ROWS
) -> Counts:
    """The best counts among those that fit ``room`` vectors."""
    best = Counts(1, 1, -1.0)
    for columns in range(1, MOST_COLUMNS + 1):
        if not _can_hold(column, columns):
            break
        for rows in range(1, most_rows + 1):
            if not _can_hold(row, rows):
                break
            held = rows * columns
            if held + columns + 1 > room and held > 1:
                break
            score = min(held, ENOUGH_SUMS) / ENOUGH_SUMS
            score *= held / (held + 0.6 * columns + 0.6 * rows)
            score *= filled(row, rows) * filled(column, columns) * _rest_of(column, columns)
            if score > best.score + 1e-9:
                best = Counts(rows, columns, score)
    return best


def filled(axis: Axis | None, size: int) -> float:
    """The part of the tiles along an axis that is used."""
    if axis is None or not isinstance(axis.extent, int) or axis.extent == 0:
        return 1.0
    return axis.extent / (-(-axis.extent // size) * size)


def _can_hold(axis: Axis | None, size: int) -> bool:
    """Whether an axis is as long as a tile."""
    return size == 1 or (axis is not None and (isinstance(axis.extent, Dim) or size <= axis.extent))


def _rest_of(axis: Axis | None, size: int) -> float:
    """What is lost where vectors along a free dim fill no tile: such extents are multiples of few
    vectors more often than not, and smaller tiles at the end make less of each load."""
    return (
        1.0 if axis is None or isinstance(axis.extent, int) or LIKELY_COLUMNS % size == 0 else 0.9
    )


__all__ = ["MOST_ROWS", "Counts", "filled", "tile_counts"]
