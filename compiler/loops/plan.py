"""How a space is tiled, as records: what is kept in registers, the loops of a sum, work items.

Choices are made in tiling.py and items.py; emit.py makes statements of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .. import dim
from ..dim import Extent, Symbol
from ..scalar import Expr
from ..tensor_type import DType
from .elements import Axis, accumulated_in
from .ir import LANE, LANES, Buffer, Load
from .space import Space
from .strides import depends

CHAIN = 512  # longest chain of additions into one accumulator
LINE = 64  # bytes of a cache line
LEAST_ITEMS = 8  # that a kernel of long sums is divided into
SYMBOLIC_STEPS = 16  # of an axis whose extent is a free dim, in a work item


@dataclass(frozen=True)
class Machine:
    """What tiling needs to know of a CPU: how many 16-lane float32 vectors its registers hold, and
    the bytes of its last-level cache (as in strategies/machines.py). ``has_dots``: there is code
    for ``dot_bytes``; ``has_masks``: a part of a vector is stored as fast as all of it."""

    vectors: int = 32
    last_level_cache: int = 32 << 20
    has_dots: bool = False
    has_masks: bool = True

    def vectors_of(self, dtype: DType) -> int:
        """How many vectors of LANES numbers its registers hold."""
        return self.vectors // 2 if dtype.bytes > 4 else self.vectors


@dataclass(frozen=True)
class Tile:
    """What is kept in registers: the lanes of vectors, if any, times rows and columns. ``counts``:
    of the axes that give several rows or columns."""

    has_lanes: bool = False
    lanes_reduce: bool = False  # lanes are terms of one sum
    rows: Axis | None = None
    columns: Axis | None = None
    counts: Mapping[Symbol, int] = field(default_factory=dict)
    copied_terms: int = 0  # of the loops over the terms of a sum, the innermost that are copied out


@dataclass(frozen=True)
class Chains:
    """The loops of a sum: ``inner`` ones, with at most CHAIN terms, add into registers; ``outer``
    ones add up what these give. ``split``: the position of an axis that was taken apart for it."""

    outer: tuple[Axis, ...] = ()
    inner: tuple[Axis, ...] = ()
    split: Mapping[Symbol, Extent] = field(default_factory=dict)

    def taken_apart(self, load: Load) -> Load:
        """A load in the loops of the sum."""
        index = (p if isinstance(p, Expr) else dim.substitute(p, self.split) for p in load.index)
        return Load(load.buffer, tuple(index))


@dataclass(frozen=True)
class Plan:
    """A tiled space. Work items decode the ``outer`` axes (outermost first). Inside an item run the
    ``swept`` ones, of any length, and in them the ``inner`` ones, whose results an item may keep
    while it adds up long sums. ``bypasses_cache``: results go past the caches. ``together``: so many
    tiles of the outermost axis, a free dim, follow one another before the other axes go on."""

    space: Space
    tile: Tile
    chains: Chains
    outer: tuple[Axis, ...]
    swept: tuple[Axis, ...]
    inner: tuple[Axis, ...]
    bypasses_cache: bool = False
    together: int = 1
    parts_last: bool = False

    @property
    def items(self) -> Extent:
        """How many work items there are; behind the last tile of a free axis some are empty."""
        counts = [self.tiles(axis) for axis in self.outer]
        if self.together > 1:
            counts[0] = dim.ceil_div(counts[0], self.together) * self.together
        return dim.product(counts)

    def tiles(self, axis: Axis) -> Extent:
        """How many tiles lie along an axis, the last one filled or not."""
        return tiles_along(self.tile, axis)

    @property
    def sum_dtype(self) -> DType:
        """What sums are kept in."""
        return accumulated_in(self.space.term.dtype)


def is_large(out: Buffer, machine: Machine) -> bool:
    """Whether a result is larger than the last-level cache, so none of it is there when it is read,
    and its vectors fill cache lines."""
    return _fills_lines(out) and bytes_of(out) > machine.last_level_cache


def displaces(out: Buffer, operands: Iterable[Buffer], machine: Machine) -> bool:
    """Whether a result that fills cache lines, and what is read for it, are larger than the half of
    the last-level cache that one program can count on (as in strategies/machines.py)."""
    moved = bytes_of(out) + sum(map(bytes_of, operands))
    return _fills_lines(out) and moved > machine.last_level_cache // 2


def _fills_lines(out: Buffer) -> bool:
    return out.dtype.bytes * LANES >= LINE


def bytes_of(buffer: Buffer) -> int:
    """Those of a buffer of static shape; of others none."""
    elements = dim.product(buffer.shape)
    return elements * buffer.dtype.bytes if isinstance(elements, int) else 0


def tiles_along(tile: Tile, axis: Axis) -> Extent:
    return dim.ceil_div(axis.extent, tile.counts.get(axis.symbol, 1))


def fewest_tiles(tile: Tile, axes: Iterable[Axis]) -> int:
    """The tiles along all of the axes together, where those of a free extent are as few as they may
    be, but not none (a batch of one)."""
    return math.prod(max(dim.bounds(tiles_along(tile, axis))[0] or 0, 1) for axis in axes)


def operands(space: Space) -> tuple[list[Load], list[Load]]:
    """(operands that are vectors, those that are the same in all lanes)"""
    return [v for v in space.loads if depends(v, LANE)], [
        s for s in space.loads if not depends(s, LANE)
    ]


def divisor(extent: Extent, most: int) -> int:
    """The largest divisor of the extent up to ``most``, if it is at least half of it; else
    ``most``.
    """
    if isinstance(extent, int):
        for step in range(most, most // 2, -1):
            if extent % step == 0:
                return step
    return most
