"""What the tiles of a sweep prefetch together: the vectors that the next sweep reads.

Tiles that follow one another along the rows read the same panel of an operand, a vector for each
column and term, again and again from the L2 cache. The tiles of the next columns read another
panel, and would wait for it line by line. So each tile asks for its share of the next panel, a line
now and then between its own terms: memory has the time of a whole sweep. Evenly, since a bunch of
hints keeps the loads of the terms waiting.

Hints change no result. They may lie outside their buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from .. import dim
from ..dim import Dim, Extent, Symbol
from .elements import Axis
from .ir import LANE, LANES, Load, Prefetch, Statement, slope_along
from .numbering import Lets, Level, bound, next_place, number_in
from .plan import LINE, Plan, operands
from .strides import depends

# axis of a tile with several rows or columns: the loop over these, and its extent
Units: TypeAlias = Mapping[Symbol, tuple[Symbol, int]]

FEWEST_BYTES = 128 << 10  # of an operand: a smaller one is soon in a core's caches
ENOUGH_TILES = 3  # of a sweep: fewer leave memory no time


@dataclass(frozen=True)
class Sweep:
    """One of the tiles that read a panel: ``tiles`` in all, of which it is number ``number``.

    ``load``: a vector of the next panel, in the loops over ``terms``, outermost first, whose vectors
    lie behind one another in memory, and in a loop over the ``columns`` of the tile, if there are
    several. ``lets`` bind the place of the next panel."""

    load: Load
    terms: tuple[Axis, ...]
    columns: tuple[Symbol, int] | None
    tiles: int
    number: Extent
    lets: Lets = ()

    def around(self, body: Statement) -> Statement:
        """A tile's terms with the place of the next panel."""
        return bound(self.lets, body)

    @property
    def depth(self) -> int:
        """How many of the loops over terms hints stand inside: of all, or not of the innermost one
        if that is often enough."""
        innermost = self.terms[-1].extent
        is_enough = isinstance(innermost, int) and self._sharers >= innermost
        return len(self.terms) - 1 if is_enough else len(self.terms)

    @property
    def _vectors(self) -> int:
        return self.columns[1] if self.columns else 1

    @property
    def _sharers(self) -> int:
        """How many tiles share the lines of a column: a power of two, for cheap indices."""
        return 1 << max(self.tiles // self._vectors, 1).bit_length() - 1

    def hints(self) -> list[Statement]:
        """Those of a tile, each time that it comes by at ``depth``."""
        extents = _known([axis.extent for axis in self.terms])
        loops = [Level(axis, axis.extent, axis.position) for axis in self.terms[: self.depth]]
        done = number_in(loops) * prod(extents[self.depth :])
        share = -(-prod(extents) // self._sharers)
        line = self.number % self._sharers * share + done // self._sharers
        at_once = -(-self._vectors // self.tiles)
        first = self.number // self._sharers * at_once
        return [self._hint(line, first + more) for more in range(at_once)]

    def _hint(self, line: Extent, column: Extent) -> Statement:
        long = [axis for axis in self.terms if axis.extent != 1]
        at: dict[Symbol, Extent] = {axis.symbol: 0 for axis in self.terms}
        at |= {long[-1].symbol: line, LANE: 0}
        if self.columns:
            at[self.columns[0]] = dim.minimum(column, self.columns[1] - 1)
        index = tuple(dim.substitute(part, at) for part in self.load.extents)
        return Prefetch(Load(self.load.buffer, index))


def is_panel(load: Load, terms: Sequence[Axis]) -> bool:
    """Whether a load's vectors are whole lines, one behind the other for the terms of a sum, of an
    array larger than a core's own caches."""
    size = dim.product(load.buffer.shape)
    if load.buffer.is_local or load.index_expressions or not isinstance(size, int):
        return False
    if LANES * load.dtype.bytes != LINE or size * load.dtype.bytes <= FEWEST_BYTES:
        return False
    offset, apart = load.buffer.offset(load.extents), LANES
    long = [axis for axis in terms if axis.extent != 1]
    for axis in reversed(long):
        if slope_along(offset, axis.symbol) != apart or not isinstance(axis.extent, int):
            return False
        apart *= axis.extent
    return bool(long) and slope_along(offset, LANE) == 1


def sweep_of(
    plan: Plan, item: Symbol, positions: Mapping[Symbol, Extent], units: Units, keeps_sums: bool
) -> Sweep | None:
    """The sweep of the tile at those positions of axes, ``units`` of which count inside the tile;
    None where nothing is prefetched. ``keeps_sums``: chunks of terms run around the tiles of an
    item, not inside."""
    chains = plan.chains
    terms = chains.inner if keeps_sums else (*chains.outer, *chains.inner)
    loads = map(chains.taken_apart, operands(plan.space)[0])
    panels = [load for load in loads if is_panel(load, terms)]
    if len(panels) != 1 or plan.swept or plan.tile.lanes_reduce:
        return None
    (load,) = panels
    nest = _item_levels(plan, positions, units)
    nest += [Level(axis, axis.extent, axis.position) for axis in chains.outer if keeps_sums]
    nest += [_level(plan, axis, positions, units) for axis in plan.inner]
    around = len(nest)
    while around and not depends(load, nest[around - 1].axis.symbol):
        around -= 1
    if plan.together > 1 and around > len(plan.outer):
        return None  # an axis whose items are done together has a second level there
    tiles = dim.product([level.turns for level in nest[around:]])
    is_known = all(isinstance(level.turns, int) for level in nest[1:around])
    is_only_one = dim.product([level.turns for level in nest[:around]]) == 1
    if is_only_one or not is_known or not isinstance(tiles, int) or tiles < ENOUGH_TILES:
        return None
    lets, turns = next_place(nest[:around], item.name, "p")
    moved: dict[Symbol, Extent] = {}
    for symbol, turn in turns.items():
        unit = Dim.of(units[symbol][0]) if symbol in units else 0
        moved[symbol] = turn * plan.tile.counts.get(symbol, 1) + unit
    load = Load(load.buffer, tuple(dim.substitute(part, moved) for part in load.extents))
    columns = units.get(plan.tile.columns.symbol) if plan.tile.columns else None
    return Sweep(load, terms, columns, tiles, number_in(nest[around:]), lets)


def _item_levels(plan: Plan, positions: Mapping[Symbol, Extent], units: Units) -> list[Level]:
    """The loops that work items are numbered over, outermost first."""
    levels = [_level(plan, axis, positions, units) for axis in plan.outer]
    if plan.together == 1:
        return levels
    first, *others = levels
    turns, number = dim.ceil_div(first.turns, plan.together), first.number // plan.together
    together = Level(first.axis, plan.together, first.number % plan.together)
    return [Level(first.axis, turns, number), *others, together]


def _level(plan: Plan, axis: Axis, positions: Mapping[Symbol, Extent], units: Units) -> Level:
    position = positions[axis.symbol]
    if axis.symbol in units:
        position = position - Dim.of(units[axis.symbol][0])
    return Level(axis, plan.tiles(axis), position // plan.tile.counts.get(axis.symbol, 1))


def _known(extents: Sequence[Extent]) -> list[int]:
    return [extent for extent in extents if isinstance(extent, int)]


__all__ = ["Sweep", "is_panel", "sweep_of"]
