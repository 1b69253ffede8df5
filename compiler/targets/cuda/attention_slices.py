"""Slices of attention's operands in shared memory: a ring of them, copied by ``cp.async`` while
earlier ones are multiplied, one barrier a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .attention_blocks import Side
from .forms import THREADS
from .printer import Printer

Turn: TypeAlias = Callable[[str], str]


@dataclass(frozen=True)
class Slices:
    """``stages`` slices of ``words`` each from ``ring`` on, copied by ``thread`` and all others.
    Where both operands of scores are in one, they have rows of ``depth`` words, and threads have
    ``fragment`` neighbouring rows of the left one."""

    p: Printer
    thread: str
    ring: str
    stages: int
    words: int
    depth: int
    fragment: int

    def left_turn(self, row: str) -> str:
        """By what a row's groups of four words are swizzled: a warp reads two rows, which lie a
        fragment apart."""
        half = self.p.call("quotient", row, str(self.fragment))
        return self.p.call("times", self.p.call("remainder", half, "2"), "4")

    def right_turn(self, row: str) -> str:
        """The same of the right operand: 8 neighbouring rows are read at once."""
        groups = self.depth // 4
        turn = self.p.call("quotient", row, str(8 // groups))
        return self.p.call("times", self.p.call("remainder", turn, str(groups)), "4")

    def slot(self, number: str) -> str:
        """Where a slice lies."""
        p = self.p
        place = p.call("remainder", number, str(self.stages))
        return p.let(p.call("at", self.ring, p.call("times", place, str(self.words))), "s")

    def begin(self, fetch: Callable[[str], None]) -> None:
        """The first slices are on their way."""
        with self.p.loop(str(self.stages - 1)) as number:
            fetch(number)

    def next(self, number: str, fetch: Callable[[str], None]) -> str:
        """A slice's memory, when it is there; a later one is on its way."""
        p, ahead = self.p, self.stages - 1
        p.do(f"arrive_{ahead - 1}")
        p.do("barrier")
        fetch(p.let(p.call("plus", number, str(ahead)), "n"))
        return self.slot(number)

    def copy(
        self, side: Side, target: str, start: int, outer: str, inner: str, turn: Turn | None
    ) -> None:
        """This thread's elements of a slice from (outer, inner) on; zeros behind the operand."""
        p, width = self.p, side.width
        across, number = side.length // width, side.size * side.length // width
        for part in range(-(-number // THREADS)):
            flat = self.thread
            flat = p.index("plus", flat, str(part * THREADS)) if part else flat
            is_whole = number % THREADS == 0
            with p.where([] if is_whole else [p.index("below", flat, str(number))]):
                place = p.index("quotient", flat, str(across))
                own = p.index("remainder", flat, str(across))
                own = p.index("times", own, str(width)) if width > 1 else own
                word = p.index("xor_int32", own, p.let(turn(place), "z")) if turn else own
                word = p.index("plus", p.index("times", place, str(side.length)), word)
                at = (p.index("plus", outer, place), p.index("plus", inner, own))
                inside = [
                    p.index("below", i, p.extent(axis.extent))
                    for i, axis in zip(at, (side.outer, side.inner), strict=True)
                    if not side.is_whole(axis)
                ] or [p.index("below", "0", "1")]
                p.names[side.outer.symbol.name], p.names[side.inner.symbol.name] = at
                source, offset = p.buffers[side.load.buffer], p.offset(side.load, {})
                word = p.index("plus", word, str(start)) if start else word
                p.do(f"copy_{width}", target, word, source, offset, p.all(inside))


__all__ = ["Slices"]
