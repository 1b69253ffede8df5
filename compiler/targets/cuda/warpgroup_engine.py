"""What multiplies slices by Hopper's tensor cores, four warps at a time: how they lie in shared
memory, which thread brings what, who has which sums.

A slice lies [place, k], 64 or 128 bytes a row, its groups of 16 bytes swizzled as ``wgmma`` reads
rows of that length. In ``3xtf32`` it lies there twice: what tensor cores read of each number, and
the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .forms import Engine, Product
from .printer import Printer
from .product_engines import Side, Tensor, turn
from .windows import Rows, print_elements, print_rows

GROUP = 4  # words that a swizzle leaves together
ROWS, WORDS = 32, 8  # of windows, that a block's threads fetch at once
SUMS_AHEAD = 3  # buffers with which a product is under way while the next one begins


class Warpgroups(Tensor):
    """Some buffers of slices; each of two groups of four warps makes 64 rows of the tile, of a tile
    of 64 rows half the columns."""

    def __init__(self, p: Printer, form: Product) -> None:
        super().__init__(p, form)
        self.is_split = form.engine is Engine.TF32X3
        self.stride = form.tile.depth // self.per_word
        self.parts = form.tile.rows // 64
        self.columns = form.tile.columns * self.parts // 2
        copies = 2 if self.is_split else 1
        self.left_words = copies * form.tile.rows * self.stride
        self.words = self.left_words + copies * form.tile.columns * self.stride
        # sums of 3xtf32 are added up behind every slice: no product is then under way
        self.buffers = 2 if self.is_split else SUMS_AHEAD
        self.room = max(64 * self.stage_stride, self.buffers * self.words)

    def place(self, thread: str) -> None:
        p = self.p
        self.lane = p.let(p.call("remainder", thread, "32"), "l")
        self.warp = p.let(p.call("remainder", p.call("quotient", thread, "32"), "4"), "w")
        self.group = p.let(p.call("quotient", thread, "128"), "w")
        self.warp_column = (
            "0" if self.parts == 2 else p.let(p.call("times", self.group, str(self.columns)), "x")
        )

    def multiplied(self, left: str, right: str) -> str:
        """Begins it; the tile is there when ``finished``."""
        p = self.p
        row = p.call("times", self.group, str(64 * self.stride)) if self.parts == 2 else "0"
        column = p.call("times", self.warp_column, str(self.stride))
        sides = p.call("at", left, row), p.call("at", right, column)
        if self.is_split:
            low = f"{self.tile.rows * self.stride}_{self.tile.columns * self.stride}"
            return p.call(f"wgmmas_{self.columns}_{self.stride}_{low}", *sides)
        return p.call(f"wgmma_{self.engine.value}_{self.columns}_{self.stride}", "tile", *sides)

    def position(self, side: Side, thread: str, part: int) -> tuple[str, str]:
        """(k, place) in a slice of the first element of a thread's turn.

        A warp's stores reach all banks if rows have 128 bytes: of neighbouring rows a group of four
        words each, or of rows four apart 16 words. Its reads fill whole sectors of 32 bytes.
        """
        if side.operand.windows is not None:
            number, of_word = divmod(part, self.per_word)
            turns, row = divmod(number, side.size // ROWS)
            return self._term(thread, turns * self.per_word + of_word), self._place(thread, row)
        if side.operand.width == 1 or side.operand.terms_are_adjacent:
            return super().position(side, thread, part)
        p, flat = self.p, turn(self.p, thread, part // self.per_word)
        low, rest = p.index("remainder", flat, "16"), p.index("quotient", flat, "16")
        pair, rest = p.index("remainder", rest, "2"), p.index("quotient", rest, "2")
        word, halves = low, self.stride // 16
        if halves > 1:
            half, rest = p.index("remainder", rest, "2"), p.index("quotient", rest, "2")
            word = p.index("plus", low, p.index("times", half, "16"))
        place = p.index("plus", p.index("times", pair, "4"), p.index("times", rest, "8"))
        if self.per_word == 1:
            return word, place
        k = p.index("times", word, "2")
        return p.index("plus", k, "1") if part % 2 else k, place

    def _place(self, thread: str, number: int) -> str:
        """Of one of a thread's rows of windows: 8 neighbours in a warp, 32 in four warps."""
        p = self.p
        warp = p.index("remainder", p.index("quotient", thread, "32"), "4")
        row = p.index("plus", p.index("remainder", thread, "8"), p.index("times", warp, "8"))
        return p.index("plus", row, str(ROWS * number)) if number else row

    def _term(self, thread: str, number: int) -> str:
        """Of one of a thread's terms of windows: four neighbouring words in a warp, 8 in two
        groups.
        """
        p, (turns, of_word) = self.p, divmod(number, self.per_word)
        word = p.index("remainder", p.index("quotient", thread, "8"), "4")
        group = p.index("quotient", thread, "128")
        word = p.index("plus", word, p.index("times", group, str(GROUP)))
        k = p.index("times", word, "2") if self.per_word == 2 else word
        step = WORDS * self.per_word * turns + of_word
        return p.index("plus", k, str(step)) if step else k

    def rows(self, form: Product, side: Side, thread: str) -> Rows | None:
        """What a thread keeps of its rows, if they are windows: few of them, each of some terms,
        because a row costs much before the loop and a term little in it.
        """
        windows = side.operand.windows
        if windows is None:
            return None
        places = [self._place(thread, number) for number in range(side.size // ROWS)]
        return print_rows(self.p, form, windows, side.operand.axes, side.size, side.first, places)

    def fetched(self, form: Product, side: Side, rows: Rows, thread: str, start: str) -> list[str]:
        """A thread's part of a slice of windows."""
        p, windows, per_word = self.p, side.operand.windows, self.per_word
        assert windows is not None
        terms = [
            [
                p.let(p.call("load_if_float32", *element), "v")
                for element in print_elements(
                    p, form, windows, rows, start, self._term(thread, number)
                )
            ]
            for number in range(self.tile.depth // WORDS)
        ]
        words = [terms[first : first + per_word] for first in range(0, len(terms), per_word)]
        return [value for word in words for row in zip(*word, strict=True) for value in row]

    def _where(self, k: str, place: str) -> str:
        """The word of an element: groups of four words, swizzled by the row."""
        p = self.p
        word = p.index("quotient", k, "2") if self.per_word == 2 else k
        row = place if self.stride == 32 else p.index("quotient", place, "2")
        group = p.index(
            "xor_int32",
            p.index("quotient", word, str(GROUP)),
            p.index("remainder", row, str(self.stride // GROUP)),
        )
        start = p.index(
            "plus", p.index("times", place, str(self.stride)), p.index("times", group, str(GROUP))
        )
        return p.index("plus", start, p.index("remainder", word, str(GROUP)))

    def keep_all(self, side: Side, thread: str, values: Sequence[str]) -> None:
        """Rounded to what the engine multiplies, or in two parts; of bfloat16, two in a word."""
        p, width = self.p, side.operand.width
        four = width > 1 and side.operand.terms_are_adjacent
        step = 1 if four else self.per_word
        for part in range(0, len(values), step):
            k, place = self.position(side, thread, part)
            # rows next to each other are swizzled each in its way
            for lane in range(1 if four else width):
                where = self._where(k, p.index("plus", place, str(lane)) if lane else place)
                elements = values[part : part + step]
                if width > 1 and not four:
                    elements = [f"{value}[{lane}]" for value in elements]
                p.do(self._keeping(side, four), side.memory, where, *elements)

    def _keeping(self, side: Side, four: bool) -> str:
        """The intrinsic that keeps one word, or a group of four elements."""
        name = "4" if four else ""
        match self.engine:
            case Engine.TF32X3:
                return f"split{name}_{side.size * self.stride}"
            case Engine.BF16:
                return "keep4_bfloat16" if four else f"pair_1_{self.stride}"
        return f"keep{name}_tf32"

    def stage(self, part: int, stage: str) -> None:
        p, columns = self.p, self.stage_stride
        row = p.call("plus", p.call("times", self.warp, "16"), p.call("quotient", self.lane, "4"))
        column = p.call(
            "plus", self.warp_column, p.call("times", p.call("remainder", self.lane, "4"), "2")
        )
        conditions = (
            [p.call("below", self.group, "1") if part == 0 else p.call("below", "0", self.group)]
            if self.parts == 2
            else []
        )
        target = p.call("at", stage, p.call("plus", p.call("times", row, str(columns)), column))
        with p.where(conditions):
            p.do(f"mma_stage_1_{self.columns // 8}_0_{columns}", "tile", target)

    def row_of(self, part: int, local: str) -> str:
        """The tile's row that a row of the stage holds."""
        return self.p.call("plus", local, str(64 * part))


__all__ = ["Warpgroups"]
