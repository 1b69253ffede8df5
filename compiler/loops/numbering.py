"""Work items are numbered over axes, the last one fastest: the number of an item -> its place."""

from __future__ import annotations

from collections.abc import Sequence

from .. import dim
from ..dim import Dim, Extent, Symbol
from .elements import Axis
from .ir import Let, Statement, loop


def over_items(axes: Sequence[Axis], item: Symbol, body: Statement) -> tuple[Extent, Statement]:
    """(work items, what one does): the body at each place of the axes. Symbolic axes after the
    first are loops inside an item, for only the outermost part of its number may be symbolic.
    """
    symbolic = [axis for axis in axes if isinstance(axis.extent, Dim)]
    outer = [*symbolic[:1], *(axis for axis in axes if isinstance(axis.extent, int))]
    for axis in symbolic[1:]:
        body = loop(axis.symbol, axis.extent, body)
    rest: Extent = Dim.of(item)
    for axis in reversed(outer[1:]):
        assert isinstance(axis.extent, int)
        length = max(axis.extent, 1)  # where there are none, there are no items either
        body = Let(axis.symbol, rest % length, body)
        rest = rest // length
    if outer:
        body = Let(outer[0].symbol, rest, body)
    return dim.product([axis.extent for axis in outer]), body


__all__ = ["over_items"]
