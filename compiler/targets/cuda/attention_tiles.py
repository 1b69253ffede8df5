"""How the fused attention's, and its gradient's, 16 x 16 threads share a tile of queries and 64 keys, and where slices
lie in shared memory: chosen from shapes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...dim import Extent

ACROSS, COLUMNS = 16, 4  # threads of a row, keys of a thread
KEYS = ACROSS * COLUMNS  # of a tile
WIDTH = 64  # widths of values are rounded up to its multiples: four columns a thread
FEW_ROWS = 16  # queries that have a tile of their own
MANY_BLOCKS = 128  # fill a device
WIDEST_GRADIENT = 128  # of heads and values, whose gradients leave registers for the scores
HELD = 64 * 64  # numbers of an output tile, up to which two blocks share a multiprocessor


@dataclass(frozen=True)
class AttentionTile:
    """``rows`` queries of a block, ``width`` columns of values.

    Slices in shared memory: ``depth`` terms of queries and keys, or ``values`` keys of values;
    ``stages`` of them at once.
    """

    rows: int
    width: int
    depth: int
    values: int
    stages: int

    @property
    def keys(self) -> int:
        """Of a tile."""
        return KEYS

    @property
    def thread_rows(self) -> int:
        return self.rows // ACROSS

    @property
    def fragment(self) -> int:
        """Neighbouring rows of a thread."""
        return min(self.thread_rows, 4)

    @property
    def columns(self) -> int:
        """Of a thread's output."""
        return self.width // ACROSS

    @property
    def weight_stride(self) -> int:
        """Words of a row of weights: rows of neighbouring threads lie 16 banks apart."""
        return KEYS + ACROSS // self.fragment

    @property
    def slice_words(self) -> int:
        return max((self.rows + KEYS) * self.depth, self.values * self.width)

    @property
    def weight_words(self) -> int:
        return self.rows * self.weight_stride

    @property
    def room(self) -> int:
        """Words of shared memory."""
        return self.weight_words + self.stages * self.slice_words

    @property
    def staged(self) -> int:
        """Rows of each thread that go through shared memory at once to be stored."""
        found = self.fragment
        while found * ACROSS * self.width > self.room:
            found //= 2
        return found


@dataclass(frozen=True)
class GradientTile:
    """``widths``: columns of each gradient that a block makes, rounded up; slices in shared memory
    hold ``depth`` terms of two operands of scores, or rows of one operand of a gradient."""

    widths: tuple[int, ...]
    rows: int = KEYS
    depth: int = 16
    stages: int = 3

    @property
    def keys(self) -> int:
        """Of a tile, or queries."""
        return KEYS

    @property
    def thread_rows(self) -> int:
        return self.rows // ACROSS

    @property
    def fragment(self) -> int:
        """Neighbouring rows of a thread."""
        return self.thread_rows

    @property
    def slice_words(self) -> int:
        return 2 * self.rows * self.depth

    @property
    def weight_stride(self) -> int:
        """Words of a row of weights: rows of neighbouring threads lie 16 banks apart."""
        return KEYS + ACROSS // self.fragment

    @property
    def weight_words(self) -> int:
        return self.rows * self.weight_stride

    @property
    def room(self) -> int:
        """Words of shared memory."""
        return self.weight_words + self.stages * self.slice_words

    def values(self, width: int) -> int:
        """Rows of a slice of an operand of a gradient."""
        return self.slice_words // width


def row_offset(row: int, rows: int) -> int:
    """How far behind a thread's first row its row lies."""
    fragment = min(rows, 4)
    return row % fragment + row // fragment * ACROSS * fragment


def attention_tile(queries: Extent, heads: int, width: int) -> AttentionTile:
    """Few rows where queries are few or heads wide, whose outputs fill the registers; most where
    blocks are many and heads narrow.
    """
    padded = -(-width // WIDTH) * WIDTH
    if isinstance(queries, int) and queries <= FEW_ROWS:
        return AttentionTile(FEW_ROWS, padded, 16, _values(1280, padded), 3)
    if padded > 128:
        return AttentionTile(32, padded, 16, _values(1536, padded), 3)
    is_large = isinstance(queries, int) and heads * -(-queries // 128) >= MANY_BLOCKS
    if is_large and padded == WIDTH:
        return AttentionTile(128, padded, 8, _values(1536, padded), 2)
    return AttentionTile(64, padded, 16, _values(2048, padded), 3)


def _values(words: int, width: int) -> int:
    """The most keys, a power of two, whose values take no more words."""
    keys = 4
    while 2 * keys * width <= words and 2 * keys <= KEYS:
        keys *= 2
    return keys


__all__ = [
    "ACROSS",
    "COLUMNS",
    "HELD",
    "KEYS",
    "WIDEST_GRADIENT",
    "WIDTH",
    "AttentionTile",
    "GradientTile",
    "attention_tile",
    "row_offset",
]
