"""How the 8 warps of the fused attention, or of its gradient, share a tile of queries and keys on
tensor cores, and where the operands lie in shared memory: chosen from shapes alone.

A warp has 16 of a block's rows, and all columns of a tile or a share of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from ...dim import Extent
from .attention_tiles import MANY_BLOCKS

WARPS, WARP_ROWS = 8, 16
LANE_ROWS = 2  # of a warp's, that a lane has
WIDEST = 128  # values, whose outputs leave registers for the rest
GROUP = 16  # widths are rounded up to its multiples: ldmatrix brings 16 columns
PAD = 4  # words behind a row, so that 8 neighbouring rows lie in different banks
STAGE_PAD = 8  # the same where outputs are staged, whose lanes store two words
WORDS = (163 << 10) // 4  # of a block's shared memory on the smallest architecture
FEWEST_KEYS = 16  # of a tile, that a warp has: a step of bfloat16
# of queries and of a tile of keys, the best first
SHAPES = ((128, 64), (64, 64), (64, 32), (32, 64))
# the same of a gradient, and the most of a lane's registers for its sums, weights and slopes
GRADIENT_SHAPES = ((128, 64), (128, 32), (64, 64), (64, 32), (32, 64))
MOST_SUMS = 160
SHORTEST = 32  # tile of a gradient
HELD = 128  # of a lane's registers, for outputs, scores and what is on its way
HELD_BY_TWO = 64  # of a lane's numbers, where two blocks share a multiprocessor


@dataclass(frozen=True)
class WarpTile:
    """``rows`` queries of a block, whose heads are ``depth`` deep and their values ``width`` wide,
    both rounded up; ``keys`` of a tile; ``per_word``: numbers in a word of shared memory."""

    rows: int
    keys: int
    depth: int
    width: int
    per_word: int

    @property
    def down(self) -> int:
        """Warps with queries of their own."""
        return self.rows // WARP_ROWS

    @property
    def across(self) -> int:
        """Warps that share queries, each with keys of its own."""
        return WARPS // self.down

    @property
    def own_keys(self) -> int:
        return self.keys // self.across

    @property
    def fragments(self) -> int:
        """Of 8 keys each, that a warp has."""
        return self.own_keys // 8

    @property
    def columns(self) -> int:
        """Fragments of 8 columns of values."""
        return self.width // 8

    def stride(self, length: int) -> int:
        """Words of a row of so many elements."""
        return length // self.per_word + PAD

    @property
    def depth_stride(self) -> int:
        """Words of a row of queries or keys."""
        return self.stride(self.depth)

    @property
    def value_stride(self) -> int:
        return self.stride(self.width)

    @property
    def keys_at(self) -> int:
        """Where keys lie: behind the queries."""
        return self.rows * self.depth_stride

    @property
    def values_at(self) -> int:
        return self.keys_at + self.keys * self.depth_stride

    @property
    def stage_stride(self) -> int:
        return self.width + STAGE_PAD

    @property
    def merged_at(self) -> int:
        """Where the largest scores and sums of warps that share queries lie: behind the staged
        outputs."""
        return self.rows * self.stage_stride

    @property
    def held(self) -> int:
        """A lane's numbers: outputs, scores, and elements of a tile that is on its way."""
        on_its_way = self.keys * max(self.depth, self.width) // (32 * WARPS)
        return 4 * (self.columns + self.fragments) + on_its_way

    @property
    def room(self) -> int:
        """Words of shared memory."""
        merged = 2 * self.across * self.rows if self.across > 1 else 0
        operands = self.values_at + self.keys * self.value_stride
        return max(operands, self.merged_at + merged)

    @property
    def is_ahead(self) -> bool:
        """Whether a tile of an operand is on its way in registers while another is multiplied."""
        return self.held <= HELD

    def lighter(self) -> Self | None:
        """The next one that needs fewer registers: half as many keys; None if the warps cannot share
        them."""
        if self.own_keys < 2 * FEWEST_KEYS:
            return None
        return replace(self, keys=self.keys // 2)


@dataclass(frozen=True)
class WarpGradientTile(WarpTile):
    """Of attention's gradient: ``rows`` queries of a block and ``keys`` of a tile, or the other way
    around where it is by keys and values.

    Both operands of the rows lie in shared memory, behind them two tiles of the first one that is
    met, and one of the second. ``number``: of gradients that a block makes; ``overlaps``: whether an
    operand is on its way while another is multiplied.
    """

    number: int
    overlaps: bool = True

    @property
    def gradients(self) -> tuple[int, ...]:
        """Columns of each."""
        return (self.depth, self.width)[: self.number]

    @property
    def width_at(self) -> int:
        """Where the rows' second operand lies."""
        return self.rows * self.depth_stride

    @property
    def keys_at(self) -> int:
        return self.rows * (self.depth_stride + self.value_stride)

    @property
    def first_words(self) -> int:
        """Of a tile of the first operand that is met."""
        return self.keys * self.depth_stride

    @property
    def values_at(self) -> int:
        return self.keys_at + 2 * self.first_words

    def staged(self, width: int) -> int:
        """Words of a row of a gradient on its way to be stored."""
        return width + STAGE_PAD

    @property
    def sums(self) -> int:
        """A lane's numbers of gradients, weights and slopes."""
        return sum(self.gradients) // 2 + 8 * self.fragments

    @property
    def held(self) -> int:
        """The same with elements of both operands of a tile."""
        return self.sums + self.keys * (self.depth + self.width) // (32 * WARPS)

    @property
    def is_ahead(self) -> bool:
        """No rule tells which kernels have the registers for it: each is tried with it first."""
        return self.overlaps

    @property
    def room(self) -> int:
        operands = self.values_at + self.keys * self.value_stride
        return max(operands, *(self.rows * self.staged(width) for width in self.gradients))

    def lighter(self) -> Self | None:
        """Without overlapping; then with fewer keys, not fewer than SHORTEST, since each tile is an
        addition."""
        if self.overlaps:
            return replace(self, overlaps=False)
        fewer = None if self.keys < 2 * SHORTEST else super().lighter()
        return fewer and replace(fewer, overlaps=True)


def warp_gradient_tile(
    rows: Extent, heads: int, depth: int, width: int, per_word: int, number: int,
    is_masked: bool = False,
) -> WarpGradientTile:  # fmt: skip
    """Most rows where blocks are many and no mask takes registers, few where rows are, as many as
    registers and shared memory allow."""
    deep, wide = (-(-extent // (8 * per_word)) * 8 * per_word for extent in (depth, width))
    most = _most_rows(rows, heads, is_masked)
    tiles = [
        WarpGradientTile(own, keys, deep, wide, per_word, number)
        for own, keys in GRADIENT_SHAPES
        if own <= most
    ]
    fitting = (tile for tile in tiles if tile.room <= WORDS and tile.sums <= MOST_SUMS)
    found = next(fitting, None)
    assert found is not None, "heads as deep as gradients have a tile"
    return found


def warp_tile(
    queries: Extent, heads: int, depth: int, width: int, per_word: int, is_masked: bool = False
) -> WarpTile | None:
    """Most queries where blocks are many and no mask takes registers, few where queries are; None
    where no tile fits shared memory, or values are too wide."""
    deep = -(-depth // (8 * per_word)) * 8 * per_word
    wide = -(-width // GROUP) * GROUP
    most = _most_rows(queries, heads, is_masked)
    tiles = (WarpTile(rows, keys, deep, wide, per_word) for rows, keys in SHAPES if rows <= most)
    return next((tile for tile in tiles if width <= WIDEST and tile.room <= WORDS), None)


def _most_rows(rows: Extent, heads: int, is_masked: bool) -> int:
    """That a block may have."""
    most, least = SHAPES[0][0], SHAPES[-1][0]
    if is_masked or not isinstance(rows, int) or heads * -(-rows // most) < MANY_BLOCKS:
        most //= 2
    while isinstance(rows, int) and least < most and rows <= most // 2:
        most //= 2
    return most


__all__ = [
    "HELD_BY_TWO",
    "LANE_ROWS",
    "SHORTEST",
    "WARP_ROWS",
    "WarpGradientTile",
    "WarpTile",
    "warp_gradient_tile",
    "warp_tile",
]
