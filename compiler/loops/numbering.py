"""Work items and tiles are numbered over axes, the last one fastest: a number -> its place, a place ->
its number and the next place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .. import dim
from ..dim import Dim, Extent, Symbol
from .elements import Axis
from .ir import Let, Statement, loop, variable

Lets: TypeAlias = tuple[tuple[Symbol, Extent], ...]


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


@dataclass(frozen=True)
class Level:
    """A loop of a nest: along which axis, how many turns it has, and which one this is."""

    axis: Axis
    turns: Extent
    number: Extent


def number_in(nest: Sequence[Level]) -> Extent:
    """The number of a place in a nest, outermost loop first."""
    total: Extent = 0
    for level in nest:
        total = total * level.turns + level.number
    return total


def next_place(nest: Sequence[Level], name: str, mark: str) -> tuple[Lets, Mapping[Symbol, Dim]]:
    """(what binds the place one step further in a nest, the turns there by the symbols of axes);
    behind the last place comes the first, but of the outermost loop the last turn is kept where it
    has a free number of turns, which no other may have. The first number is bound to a variable of
    that name, others to those of their axes with a ``mark``."""
    step = variable(f"{name}{mark}", dim.product([level.turns for level in nest]) + 1)
    lets: list[tuple[Symbol, Extent]] = [(step, number_in(nest) + 1)]
    turns: dict[Symbol, Dim] = {}
    rest: Extent = Dim.of(step)
    for level in reversed(nest):
        symbol = variable(f"{level.axis.name}{mark}", level.turns)
        turns[level.axis.symbol] = Dim.of(symbol)
        if isinstance(level.turns, int):
            lets.append((symbol, rest % level.turns))
            rest = rest // level.turns
        else:
            lets.append((symbol, dim.minimum(rest, level.turns - 1)))
    return tuple(lets), turns


def bound(lets: Lets, body: Statement) -> Statement:
    """A statement inside what binds its variables, the first one outermost."""
    for symbol, extent in reversed(lets):
        body = Let(symbol, extent, body)
    return body


__all__ = ["Lets", "Level", "bound", "next_place", "number_in", "over_items"]
