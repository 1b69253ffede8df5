"""What multiplies slices of a product's operands: how they lie in shared memory, which thread
brings what, who has which sums.

``Simt`` works in float32; ``Tensor`` on tensor cores, a warp at a time. What works on Hopper's, four
warps at a time, is in warpgroup_engine.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .copied_slices import Slices
from .forms import PAD, THREADS, Engine, Operand, Product
from .printer import Printer
from .windows import Rows

FRAGMENT = 4  # neighbouring elements that a thread holds in a row of its tile
WARPS_DOWN, WARPS_ACROSS = 2, 4  # of a tile on tensor cores


@dataclass(frozen=True)
class Side:
    """An operand's slice: ``size`` rows or columns, where it lies in shared memory, and the
    block's first one. ``rows``: what a thread keeps of its rows of windows.
    """

    operand: Operand
    size: int
    memory: str
    first: str
    rows: Rows | None = None


def turn(p: Printer, thread: str, part: int) -> str:
    """A thread's number among all turns of its block."""
    return p.index("plus", thread, str(part * THREADS)) if part else thread


class Simt:
    """Slices [k, place]; a thread's tile is fragments of four rows and columns, spread over the
    block's tile.
    """

    def __init__(self, p: Printer, form: Product) -> None:
        self.p, self.tile = p, form.tile
        self.left_stride, self.right_stride = form.tile.rows + PAD, form.tile.columns + PAD
        self.parts = form.tile.thread_rows // FRAGMENT
        self.stage_stride = form.tile.columns
        self.left_words = form.tile.depth * self.left_stride
        slices = self.left_words + form.tile.depth * self.right_stride
        self.room = max(
            form.tile.rows // self.parts * form.tile.columns, slices * max(1, form.stages)
        )

    def place(self, thread: str) -> None:
        p = self.p
        across = str(self.tile.columns // self.tile.thread_columns)
        self.x = p.let(p.call("times", p.call("remainder", thread, across), str(FRAGMENT)), "x")
        self.y = p.let(p.call("times", p.call("quotient", thread, across), str(FRAGMENT)), "y")

    def multiplied(self, left: str, right: str) -> str:
        t, p = self.tile, self.p
        shape = (
            f"{t.depth}_{self.left_stride}_{self.right_stride}_{t.thread_rows}_{t.thread_columns}"
        )
        return p.call(
            f"tile_fma_{shape}", "tile", p.call("at", left, self.y), p.call("at", right, self.x)
        )

    def multiplied_copies(self, left: str, right: str, _left: Slices, _right: Slices) -> str:
        return self.multiplied(left, right)

    def position(self, side: Side, thread: str, part: int) -> tuple[str, str]:
        """(k, place) in a slice of the first element of a thread's turn: neighbours read
        neighbours.
        """
        p, width, flat = self.p, side.operand.width, turn(self.p, thread, part)
        length = (self.tile.depth if side.operand.terms_are_adjacent else side.size) // width
        fast, slow = p.index("remainder", flat, str(length)), p.index("quotient", flat, str(length))
        fast = p.index("times", fast, str(width)) if width > 1 else fast
        return (fast, slow) if side.operand.terms_are_adjacent else (slow, fast)

    def keep_all(self, side: Side, thread: str, values: Sequence[str]) -> None:
        for part, value in enumerate(values):
            self._keep(side, *self.position(side, thread, part), value)

    def _keep(self, side: Side, k: str, place: str, value: str) -> None:
        p, stride = self.p, str(side.size + PAD)
        where = p.call("plus", p.call("times", k, stride), place)
        if side.operand.width == 1:
            p.do("store_float32", side.memory, where, value)
        elif side.operand.terms_are_adjacent:
            for lane in range(side.operand.width):
                p.do(
                    "store_float32",
                    side.memory,
                    p.call("plus", where, str(lane * (side.size + PAD))),
                    f"{value}[{lane}]",
                )
        else:
            p.do("store4_float32", side.memory, where, value)

    def stage(self, part: int, stage: str) -> None:
        t, p = self.tile, self.p
        step = t.columns * FRAGMENT // t.thread_columns
        target = p.call(
            "at", stage, p.call("plus", p.call("times", self.y, str(t.columns)), self.x)
        )
        p.do(
            f"tile_stage_{t.thread_rows}_{t.thread_columns}_{part * FRAGMENT}_{FRAGMENT}_{t.columns}_{step}",
            "tile",
            target,
        )

    def row_of(self, part: int, local: str) -> str:
        """The tile's row that a row of the stage holds."""
        return self.p.call("plus", local, str(part * self.tile.rows // self.parts))


class Tensor:
    """Slices [place, k] of 16 words a row, for ldmatrix; 2 x 4 warps, each with m16n8 fragments
    of the tile.
    """

    def __init__(self, p: Printer, form: Product) -> None:
        self.p, self.tile, self.engine = p, form.tile, form.engine
        self.per_word = 2 if form.engine is Engine.BF16 else 1
        self.stride = form.tile.depth // self.per_word + PAD  # words
        self.down, self.across = (
            form.tile.rows // WARPS_DOWN // 16,
            form.tile.columns // WARPS_ACROSS // 8,
        )
        self.parts = self.down
        self.stage_stride = form.tile.columns + 2 * PAD
        self.left_words = form.tile.rows * self.stride
        slices = self.left_words + form.tile.columns * self.stride
        if form.stages:
            sides = ((form.left, form.tile.rows), (form.right, form.tile.columns))
            slices = form.stages * sum(
                Slices.of(side, size, form.tile.depth, form.engine).words for side, size in sides
            )
        self.room = max(form.tile.rows // self.parts * self.stage_stride, slices)

    def place(self, thread: str) -> None:
        p = self.p
        self.lane = p.let(p.call("remainder", thread, "32"), "l")
        warp = p.let(p.call("quotient", thread, "32"), "w")
        self.warp_row = p.let(p.call("quotient", warp, str(WARPS_ACROSS)), "y")
        self.warp_column = p.let(
            p.call("times", p.call("remainder", warp, str(WARPS_ACROSS)), str(self.across * 8)), "x"
        )
        row = p.call(
            "plus",
            p.call("times", self.warp_row, str(self.down * 16)),
            p.call("remainder", self.lane, "16"),
        )
        self.left_at = self._word(row, p.call("quotient", self.lane, "16"))
        column = p.call(
            "plus",
            p.call("remainder", self.lane, "8"),
            p.call("times", p.call("quotient", self.lane, "16"), "8"),
        )
        half = p.call("remainder", p.call("quotient", self.lane, "8"), "2")
        self.right_at = self._word(p.call("plus", self.warp_column, column), half)

    def _word(self, row: str, half: str) -> str:
        """Where a lane's row of an 8 x 4-word matrix begins."""
        p = self.p
        return p.let(
            p.call("plus", p.call("times", row, str(self.stride)), p.call("times", half, "4")), "a"
        )

    def multiplied(self, left: str, right: str) -> str:
        p, steps = self.p, self.tile.depth // self.per_word // 8
        name = f"mma_{self.engine.value}_{self.stride}_{steps}_{self.down}_{self.across}"
        return p.call(
            name, "tile", p.call("at", left, self.left_at), p.call("at", right, self.right_at)
        )

    def multiplied_copies(self, left: str, right: str, lefts: Slices, rights: Slices) -> str:
        p = self.p
        rows = p.call("times", self.warp_row, str(self.down * 16))
        words = [
            self._first_word(lefts, rows, is_left=True),
            self._first_word(rights, self.warp_column, is_left=False),
        ]
        name = f"mmac_{self.engine.value}_{lefts.kind}_{rights.kind}_{self.down}_{self.across}"
        return p.call(name, "tile", left, words[0], right, words[1])

    def _first_word(self, slices: Slices, first: str, is_left: bool) -> str:
        """Where this lane's first word of a warp's rows or columns lies
        (intrinsics/tensor_cores.py, mmac).
        """
        p = self.p
        if not slices.is_by_rows:
            group, k = p.call("quotient", self.lane, "4"), p.call("remainder", self.lane, "4")
            return slices.word(p, p.let(k, "k"), p.let(p.call("plus", first, group), "m"))
        if is_left:
            row, half = p.call("remainder", self.lane, "16"), p.call("quotient", self.lane, "16")
        else:
            row = p.call(
                "plus",
                p.call("remainder", self.lane, "8"),
                p.call("times", p.call("quotient", self.lane, "16"), "8"),
            )
            half = p.call("remainder", p.call("quotient", self.lane, "8"), "2")
        return slices.word(
            p, p.let(p.call("times", half, "4"), "k"), p.let(p.call("plus", first, row), "m")
        )

    def position(self, side: Side, thread: str, part: int) -> tuple[str, str]:
        """(k, place) in a slice of the first element of a thread's turn.

        Rows are 20 words apart: 8 of them at four words, or 16 words of every fourth, lie in
        different banks. A warp's reads fill whole sectors of 32 bytes. Two turns of a thread that
        makes pairs differ in k by one.
        """
        p, width, words = self.p, side.operand.width, self.tile.depth // self.per_word
        if width > 1 and side.operand.terms_are_adjacent:
            flat = turn(p, thread, part)
            low, rest = p.index("remainder", flat, "8"), p.index("quotient", flat, "8")
            groups = str(self.tile.depth // width)
            k, rest = p.index("remainder", rest, groups), p.index("quotient", rest, groups)
            return p.index("times", k, str(width)), p.index(
                "plus", p.index("times", rest, "8"), low
            )
        flat = turn(p, thread, part // self.per_word)
        if width > 1:
            word, place = (
                p.index("remainder", flat, str(words)),
                p.index("times", p.index("quotient", flat, str(words)), str(width)),
            )
        elif self.per_word == 1 and side.operand.terms_are_adjacent:
            word, place = (
                p.index("remainder", flat, str(words)),
                p.index("quotient", flat, str(words)),
            )
        else:
            low, rest = p.index("remainder", flat, "8"), p.index("quotient", flat, "8")
            word, rest = p.index("remainder", rest, "4"), p.index("quotient", rest, "4")
            groups = str(side.size // 8)
            place = p.index("plus", p.index("times", p.index("remainder", rest, groups), "8"), low)
            word = p.index("plus", p.index("times", p.index("quotient", rest, groups), "4"), word)
        if self.per_word == 1:
            return word, place
        k = p.index("times", word, "2")
        return p.index("plus", k, "1") if part % 2 else k, place

    def keep_all(self, side: Side, thread: str, values: Sequence[str]) -> None:
        """Rounded to what the engine multiplies; of bfloat16, two in a word."""
        p, width = self.p, side.operand.width
        if width > 1 and side.operand.terms_are_adjacent:
            name = "bfloat16" if self.per_word == 2 else self._kept
            for part, value in enumerate(values):
                p.do(
                    f"keep4_{name}",
                    side.memory,
                    self._where(*self.position(side, thread, part)),
                    value,
                )
        elif self.per_word == 2:
            for part in range(0, len(values), 2):
                where = self._where(*self.position(side, thread, part))
                p.do(
                    f"pair_{width}_{self.stride}",
                    side.memory,
                    where,
                    values[part],
                    values[part + 1],
                )
        else:
            for part, value in enumerate(values):
                where = self._where(*self.position(side, thread, part))
                for lane in range(width):
                    element = value if width == 1 else f"{value}[{lane}]"
                    at = p.call("plus", where, str(lane * self.stride)) if lane else where
                    p.do(f"keep_{self._kept}", side.memory, at, element)

    @property
    def _kept(self) -> str:
        return "tf32" if self.engine is Engine.TF32 else "float32"

    def _where(self, k: str, place: str) -> str:
        """The word of an element."""
        p = self.p
        word = p.index("quotient", k, "2") if self.per_word == 2 else k
        return p.index("plus", p.index("times", place, str(self.stride)), word)

    def stage(self, part: int, stage: str) -> None:
        p, columns = self.p, self.stage_stride
        row = p.call(
            "plus", p.call("times", self.warp_row, "16"), p.call("quotient", self.lane, "4")
        )
        column = p.call(
            "plus", self.warp_column, p.call("times", p.call("remainder", self.lane, "4"), "2")
        )
        target = p.call("at", stage, p.call("plus", p.call("times", row, str(columns)), column))
        p.do(f"mma_stage_{self.down}_{self.across}_{part}_{columns}", "tile", target)

    def row_of(self, part: int, local: str) -> str:
        """The tile's row that a row of the stage holds: 16 rows of each row of warps."""
        p = self.p
        own = p.call("times", p.call("quotient", local, "16"), str(self.down * 16))
        return p.call("plus", p.call("plus", own, str(part * 16)), p.call("remainder", local, "16"))


__all__ = ["Side", "Simt", "Tensor", "turn"]
