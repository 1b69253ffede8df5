"""Which rows and columns a block of attention's gradient meets, and what it knows of its queries.

With ``is_causal``, tiles that have no pair of a query and a key that it sees are not read, and blocks
that meet most come first.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from ... import dim
from .attention_tiles import GradientTile
from .attention_warps import WarpGradientTile
from .forms import FusedGradient
from .printer import Printer

NUMBERS = ("bases", "inverses", "deltas")  # of a query


def place_block(p: Printer, form: FusedGradient, names: MutableMapping[str, str]) -> None:
    """``first``: the block's first row; its heads are bound. ``tiles``: how many tiles of columns it
    meets, from number ``start`` on."""
    tile, other = form.tile, form.row if form.is_across else form.key
    block = p.let(p.call("block"), "b")
    down = p.extent(dim.ceil_div(form.own.extent, tile.rows))
    number = p.call("remainder", block, down)
    if form.attrs.is_causal and not form.is_across:
        number = p.call("minus", p.call("minus", down, "1"), number)
    first = names["first"] = p.let(p.call("times", p.let(number, "n"), str(tile.rows)), "m")
    p.decode(p.let(p.call("quotient", block, down), "b"), form.heads)
    names["start"] = "0"
    tiles = p.extent(dim.ceil_div(other.extent, tile.keys))
    if form.attrs.is_causal and form.is_across:
        names["start"] = p.let(p.call("quotient", first, str(tile.keys)), "n")
        tiles = p.call("minus", tiles, names["start"])
    elif form.attrs.is_causal:
        seen = p.call("plus", first, str(tile.rows + tile.keys - 1))
        tiles = p.call("lesser", tiles, p.call("quotient", seen, str(tile.keys)))
    names["tiles"] = p.let(tiles, "n")


def first_column(p: Printer, tile: GradientTile | WarpGradientTile, start: str, number: str) -> str:
    """Of the block's tile of that number."""
    number = number if start == "0" else p.call("plus", start, number)
    return p.let(p.call("times", number, str(tile.keys)), "k")


def read_numbers(
    p: Printer, form: FusedGradient, queries: Sequence[str], which: Sequence[str] = NUMBERS
) -> None:
    """Assigns those of NUMBERS, each a tuple over a thread's queries."""
    numbers = dict(zip(NUMBERS, form.numbers, strict=True))
    for name in which:
        found = []
        for query in queries:
            p.names[form.row.symbol.name] = query
            found.append(p.expression(numbers[name]))
        p.line(f"{name} = ({', '.join(found)})")


__all__ = ["first_column", "place_block", "read_numbers"]
