"""How the fused attention's 8 warps share a tile of queries and keys on tensor cores, and where the
operands lie in shared memory: chosen from shapes alone.

A warp has 16 queries, and all keys of a tile or a share of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...dim import Extent
from .attention_tiles import MANY_BLOCKS

WARPS, WARP_ROWS = 8, 16
WIDEST = 128  # values, whose outputs leave registers for the rest
GROUP = 16  # widths are rounded up to its multiples: ldmatrix brings 16 columns
PAD = 4  # words behind a row, so that 8 neighbouring rows lie in different banks
STAGE_PAD = 8  # the same where outputs are staged, whose lanes store two words
WORDS = (163 << 10) // 4  # of a block's shared memory on the smallest architecture
FEWEST_KEYS = 16  # of a tile, that a warp has: a step of bfloat16
# of queries and of a tile of keys, the best first
SHAPES = ((128, 64), (64, 64), (64, 32), (32, 64))


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

    @property
    def depth_stride(self) -> int:
        """Words of a row of queries or keys."""
        return self.depth // self.per_word + PAD

    @property
    def value_stride(self) -> int:
        return self.width // self.per_word + PAD

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


def warp_tile(
    queries: Extent, heads: int, depth: int, width: int, per_word: int, is_masked: bool = False
) -> WarpTile | None:
    """Most queries where blocks are many and no mask takes registers, few where queries are; None
    where no tile fits shared memory, or values are too wide."""
    deep = -(-depth // (8 * per_word)) * 8 * per_word
    wide = -(-width // GROUP) * GROUP
    most, least = SHAPES[0][0], SHAPES[-1][0]
    if is_masked or not isinstance(queries, int) or heads * -(-queries // most) < MANY_BLOCKS:
        most //= 2
    while isinstance(queries, int) and least < most and queries <= most // 2:
        most //= 2
    tiles = (WarpTile(rows, keys, deep, wide, per_word) for rows, keys in SHAPES if rows <= most)
    return next((tile for tile in tiles if width <= WIDEST and tile.room <= WORDS), None)


__all__ = ["FEWEST_KEYS", "WARP_ROWS", "WarpTile", "warp_tile"]
