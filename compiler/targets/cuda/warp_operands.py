"""Operands of attention on tensor cores -> shared memory, and products of scores from there.

A tile of an operand lies by rows, each PAD words longer than its elements, as ldmatrix reads it. It
passes through registers, where elements are rounded once as the engine reads them: four at once
where they are neighbours, and, where registers suffice, while another tile is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .attention_blocks import Side
from .attention_warps import WarpTile
from .forms import THREADS, Engine
from .printer import Printer

STEPS = 4  # of 8 words of the depth, that are multiplied in one piece
Group: TypeAlias = tuple[str, Sequence[str], tuple[str, ...]]


@dataclass(frozen=True)
class WarpOperands:
    """How a block's threads bring tiles of operands and multiply them."""

    p: Printer
    engine: Engine
    tile: WarpTile
    thread: str

    # -- tiles of operands -------------------------------------------------------------------------

    def fetch(self, side: Side, outer: str, wanted: Sequence[str] = ()) -> list[Group]:
        """This thread's groups of a side's tile from ``outer`` on, zeros where they are not
        wanted; none if they come later."""
        if side.width == 1 or not self.tile.is_ahead:
            return []
        turns = (str(part * THREADS) for part in range(self._turns(side)))
        return [
            self._group(side, self.p.index("plus", self.thread, turn), outer, wanted)
            for turn in turns
        ]

    def bring(self, side: Side, target: str, outer: str, wanted: Sequence[str] = ()) -> None:
        """The same to shared memory, one group after another."""
        p = self.p
        with p.loop(self._turns(side)) as turn:
            flat = p.call("plus", self.thread, p.call("times", turn, str(THREADS)))
            self.keep(side, target, [self._group(side, p.let(flat, "i"), outer, wanted)])

    def keep(self, side: Side, target: str, groups: Sequence[Group]) -> None:
        """What has arrived goes to shared memory, rounded as the engine reads it."""
        p, engine = self.p, self.engine
        kind = {Engine.BF16: "bfloat16", Engine.TF32: "tf32"}.get(engine, "float32")
        for word, mine, values in groups:
            with p.where(mine):
                if side.width > 1:
                    p.do(f"keep4_{kind}", target, word, *values)
                elif engine is Engine.BF16:
                    p.do("pair_1_0", target, word, *values)
                else:
                    p.do(f"keep_{kind}", target, word, *values)

    def _turns(self, side: Side) -> int:
        """Of all threads, that a tile of a side takes."""
        size = side.width if side.width > 1 else self.tile.per_word
        return -(-side.size * side.length // (size * THREADS))

    def _group(self, side: Side, flat: str, outer: str, wanted: Sequence[str]) -> Group:
        """The word that a group goes to, under which condition, and its values, zeros behind the
        operand and where it is not wanted."""
        p = self.p
        size = side.width if side.width > 1 else self.tile.per_word
        across, number = side.length // size, side.size * side.length // size
        mine = [p.index("below", flat, str(number))] if number % THREADS else []
        place, inner = (p.index(x, flat, str(across)) for x in ("quotient", "remainder"))
        inner = p.index("times", inner, str(size)) if size > 1 else inner
        word = p.index("quotient", inner, str(self.tile.per_word))
        word = p.index("plus", p.index("times", place, str(self.tile.stride(side.length))), word)
        at = p.index("plus", outer, place)
        inside = [*wanted, *mine]
        if not side.is_whole(side.outer):
            inside.append(p.index("below", at, p.extent(side.outer.extent)))
        return word, mine, self._elements(side, at, inner, inside)

    def _elements(
        self, side: Side, outer: str, inner: str, inside: Sequence[str]
    ) -> tuple[str, ...]:
        """The numbers of a group: one vector of four, or one after another."""
        p, buffer = self.p, self.p.buffers[side.load.buffer]
        p.names[side.outer.symbol.name] = outer
        found = []
        for lane in range(1 if side.width > 1 else self.tile.per_word):
            place = p.index("plus", inner, str(lane)) if lane else inner
            own = list(inside)
            if not side.is_whole(side.inner):
                own.append(p.index("below", place, p.extent(side.inner.extent)))
            p.names[side.inner.symbol.name] = place
            name = "load4_if_float32" if side.width > 1 else "load_if_float32"
            condition = p.all(own or [p.index("below", "0", "1")])
            found.append(p.let(p.call(name, buffer, p.offset(side.load, {}), condition), "v"))
        return tuple(found)

    # -- products of scores ------------------------------------------------------------------------

    def add_scores(self, target: str, left: str, right: str, length: int) -> None:
        """``target``: this lane's sums over ``length`` terms, a few steps at once; its places in
        both operands are ``left`` and ``right``."""
        p, tile = self.p, self.tile
        p.line(f"{target} = {p.call(f'tile_zero_{4 * tile.fragments}')}")

        def add(word: str, steps: int) -> None:
            self._add_piece(target, p.call("at", left, word), p.call("at", right, word),
                            tile.stride(length), steps)  # fmt: skip

        whole, rest = divmod(length // (8 * tile.per_word), STEPS)
        if whole > 1:
            with p.loop(whole) as number:
                add(p.let(p.call("times", number, str(8 * STEPS)), "k"), STEPS)
        elif whole:
            add("0", STEPS)
        if rest:
            add(str(8 * STEPS * whole), rest)

    def _add_piece(self, target: str, left: str, right: str, stride: int, steps: int) -> None:
        p, count = self.p, self.tile.fragments
        name = f"mma_{self.engine.value}_{stride}_{steps}_1_{count}"
        if self.engine is not Engine.TF32X3:
            p.line(f"{target} = {p.call(name, target, left, right)}")
            return
        piece = p.let(p.call(name, p.call(f"tile_zero_{4 * count}"), left, right), "p")
        p.line(f"{target} = {p.call(f'tile_add_{4 * count}', target, piece)}")


__all__ = ["Group", "WarpOperands"]
