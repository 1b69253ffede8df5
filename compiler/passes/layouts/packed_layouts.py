"""Layouts of the operands that tiles read front to back: weights of convolutions in blocks of
filters, matrices in panels of 16 columns.
"""

from __future__ import annotations

from ...graph import Value
from ...layout import BLOCK, QUAD, Layout, Part


def packed_filters(rank: int, blocks: bool, lanes: int = 0) -> Layout:
    """o/16 c/16 k… c%16 o%16, or without blocks of channels o/16 c k… o%16; with ``lanes`` 1, o
    and c exchanged.
    """
    spatial = [Part(axis) for axis in range(2, rank)]
    other = 1 - lanes
    if blocks:
        return Layout(
            (
                Part(lanes, BLOCK),
                Part(other, BLOCK),
                *spatial,
                Part(other, 1, BLOCK),
                Part(lanes, 1, BLOCK),
            )
        )
    return Layout((Part(lanes, BLOCK), Part(other), *spatial, Part(lanes, 1, BLOCK)))


def packed_bytes(rank: int) -> Layout:
    """o/16 c/16 k… (c%16)/4 o%16 c%4: four bytes of channels, for each of 16 filters."""
    spatial = [Part(axis) for axis in range(2, rank)]
    lanes = (Part(1, QUAD, BLOCK // QUAD), Part(0, 1, BLOCK), Part(1, 1, QUAD))
    return Layout((Part(0, BLOCK), Part(1, BLOCK), *spatial, *lanes))


def panels(value: Value) -> Layout | None:
    """[.., k, n] in panels of 16 columns, each k x 16; None where not even one is full."""
    rank = value.type.rank
    if not isinstance(value.shape[-1], int) or value.shape[-1] < BLOCK:
        return None
    batch = [Part(axis) for axis in range(rank - 2)]
    return Layout((*batch, Part(rank - 1, BLOCK), Part(rank - 2), Part(rank - 1, 1, BLOCK)))


def panels_of_bytes(value: Value) -> Layout:
    """[k, n] in panels of 16 columns, each k/4 x 16 x 4."""
    rows, columns = value.type.rank - 2, value.type.rank - 1
    batch = [Part(axis) for axis in range(rows)]
    lanes = (Part(columns, 1, BLOCK), Part(rows, 1, QUAD))
    return Layout((*batch, Part(columns, BLOCK), Part(rows, QUAD), *lanes))


def columns_in_panels(value: Value) -> Layout:
    """A right operand [n, k] that is read transposed, in panels of 16 columns, each k x 16."""
    rank = value.type.rank
    batch = [Part(axis) for axis in range(rank - 2)]
    return Layout((*batch, Part(rank - 2, BLOCK), Part(rank - 1), Part(rank - 2, 1, BLOCK)))


def by_columns(value: Value) -> Layout:
    """[.., k, n] with each column contiguous."""
    rank = value.type.rank
    return Layout((*(Part(axis) for axis in range(rank - 2)), Part(rank - 1), Part(rank - 2)))
