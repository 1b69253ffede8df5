"""Where a lane finds its numbers of a warp's share of a tile, in registers and in shared memory, and
how warps that share rows put their sums together.

A warp has WARP_ROWS rows, of which a lane has LANE_ROWS, 8 apart (intrinsics/attention_fragments.py),
and all columns of a tile or, with others for the same rows, a share of them.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from .attention_warps import WARP_ROWS, WarpTile
from .forms import Engine
from .printer import Printer


def place_lane(p: Printer, tile: WarpTile, names: MutableMapping[str, str]) -> None:
    """``own``: the lane's first row in the block, ``row`` among all; ``column``: its first one of a
    tile; ``x`` and ``y``: the warp's place across columns and rows, ``group`` and ``place`` the
    lane's."""
    n = names
    lane = n["lane"] = p.let(p.call("remainder", n["thread"], "32"), "l")
    warp = p.let(p.call("quotient", n["thread"], "32"), "w")
    n["y"] = p.let(p.call("quotient", warp, str(tile.across)), "y")
    n["x"] = p.let(p.call("remainder", warp, str(tile.across)), "x")
    n["group"] = p.let(p.call("quotient", lane, "4"), "g")
    n["place"] = p.let(p.call("remainder", lane, "4"), "q")
    n["rows"] = p.let(p.call("times", n["y"], str(WARP_ROWS)), "r")
    n["own"] = p.let(p.call("plus", n["rows"], n["group"]), "r")
    n["row"] = p.let(p.call("plus", n["first"], n["own"]), "r")
    n["columns"] = p.let(p.call("times", n["x"], str(tile.own_keys)), "k")
    n["column"] = p.let(p.call("plus", n["columns"], p.call("times", n["place"], "2")), "k")


class MatrixRows:
    """The rows of matrices that a lane names to ldmatrix, as words from an operand's start on, by
    the words between its rows."""

    def __init__(self, p: Printer, engine: Engine, names: MutableMapping[str, str]) -> None:
        self.p, self.engine, self.names = p, engine, names
        lane = names["lane"]
        low = p.let(p.call("remainder", lane, "16"), "q")
        self.half = p.let(p.call("quotient", lane, "16"), "q")
        self.row = p.let(p.call("plus", names["rows"], low), "r")
        turned = p.call("plus", p.call("remainder", lane, "8"), p.call("times", self.half, "8"))
        self.column = p.let(p.call("plus", names["columns"], turned), "k")
        self.words = p.let(p.call("remainder", p.call("quotient", lane, "8"), "2"), "q")
        self.key = p.let(p.call("plus", names["columns"], low), "k")

    def left(self, stride: int) -> str:
        """Of an operand by the block's rows."""
        return word_of(self.p, self.row, self.half, stride, 4)

    def right(self, stride: int) -> str:
        """Of an operand by a tile's columns, whose products with the left one are scores."""
        return word_of(self.p, self.column, self.words, stride, 4)

    def values(self, stride: int) -> str:
        """Of the same that scores are multiplied with; of 32-bit words, the lane's own ones."""
        if self.engine is Engine.BF16:
            return word_of(self.p, self.key, self.half, stride, 4)
        return word_of(self.p, self.names["column"], self.names["group"], stride, 1)


def word_of(p: Printer, row: str, group: str, stride: int, size: int) -> str:
    """Where a row's group of so many words lies."""
    column = p.call("times", group, str(size)) if size > 1 else group
    return p.let(p.call("plus", p.call("times", row, str(stride)), column), "i")


def stage(
    p: Printer, tile: WarpTile, names: MutableMapping[str, str], made: str, width: int, stride: int
) -> None:
    """``made``, of so many columns, to shared memory, rows ``stride`` words apart: warps that share
    rows add theirs up there, one after another."""
    n, columns = names, width // 8
    target = p.let(p.call("at", n["memory"], word_of(p, n["own"], n["place"], stride, 2)), "a")
    for warp in range(tile.across):
        name = (
            f"fragments_added_{columns}_{stride}" if warp else f"mma_stage_1_{columns}_0_{stride}"
        )
        mine = [p.call("below", n["x"], str(warp + 1))]
        mine += [p.call("below", str(warp - 1), n["x"])] if warp else []
        with p.where(mine if tile.across > 1 else []):
            p.do(name, made, target)
        p.do("barrier")


__all__ = ["MatrixRows", "place_lane", "stage", "word_of"]
