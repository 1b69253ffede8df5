"""Which queries and keys a block of the fused attention meets, and how wide its operands are read.

With ``is_causal``, tiles behind all of a block's queries are not read, and blocks with the most keys
come first.
"""

from __future__ import annotations

from dataclasses import dataclass

from ... import dim
from ...dim import Extent
from ...loops.elements import Axis
from ...loops.ir import Load, slope_along
from .forms import FusedAttention
from .printer import Printer

ACCESS = 4  # elements of the widest access


@dataclass(frozen=True)
class Side:
    """An operand's slices: ``size`` places of ``length`` elements each, by its axes ``outer`` and
    ``inner``; ``width`` elements an access.
    """

    load: Load
    outer: Axis
    inner: Axis
    size: int
    length: int
    tile: int  # places of a block, or of a tile of keys

    @property
    def width(self) -> int:
        offset = self.load.buffer.offset(self.load.extents)
        if isinstance(offset, int) or slope_along(offset, self.inner.symbol) != 1:
            return 1
        others = [factor for atoms, factor in offset.terms if atoms != (self.inner.symbol,)]
        extents = (self.inner.extent, *others)
        return ACCESS if all(isinstance(e, int) and e % ACCESS == 0 for e in extents) else 1

    def is_whole(self, axis: Axis) -> bool:
        """Whether no slice reaches behind the operand along one of its axes."""
        whole = self.tile if axis is self.outer else self.length
        return isinstance(axis.extent, int) and axis.extent % whole == 0


def first_query(p: Printer, form: FusedAttention) -> str:
    """The number of the block's first query; its heads are bound."""
    block = p.let(p.call("block"), "b")
    across = p.extent(dim.ceil_div(form.row.extent, form.tile.rows))
    number = p.call("remainder", block, across)
    if form.attrs.is_causal:
        number = p.call("minus", p.call("minus", across, "1"), number)
    first = p.let(p.call("times", number, str(form.tile.rows)), "m")
    p.decode(p.let(p.call("quotient", block, across), "b"), form.heads)
    return first


def tiles_of_keys(p: Printer, form: FusedAttention, first_query: str) -> tuple[str, str]:
    """How many tiles of keys the block meets (not above zero if none), and the first key of them."""
    keys = form.tile.keys
    all_ = dim.ceil_div(form.key.extent, keys)
    tiles, first_key = p.extent(all_), "0"
    if form.attrs.is_causal:
        seen = p.call("plus", first_query, str(form.tile.rows + keys - 1))
        tiles = p.call("lesser", tiles, p.call("quotient", seen, str(keys)))
    if form.part is not None:
        share = p.extent(dim.ceil_div(all_, static(form.part.extent)))
        first = p.let(p.call("times", p.extent(form.part.position), share), "n")
        first_key = p.let(p.call("times", first, str(keys)), "k")
        tiles = p.call("lesser", share, p.call("minus", tiles, first))
    return p.let(tiles, "n"), first_key


def key_of(p: Printer, first_key: str, tile: str, keys: int) -> str:
    """The first key of a block's tile of that number."""
    passed = p.call("times", tile, str(keys))
    return p.let(passed if first_key == "0" else p.call("plus", first_key, passed), "k")


def static(extent: Extent) -> int:
    assert isinstance(extent, int)
    return extent


__all__ = ["Side", "first_query", "key_of", "static", "tiles_of_keys"]
