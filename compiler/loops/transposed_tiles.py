"""A transposition -> statements: tiles of 16 x 16 elements that are computed along one axis and
stored along another.

The rows of a tile are vectors along the source; ``t[u, l] = s[l, u]`` reads a local buffer along
its other axis, which lowering makes of shuffles in registers; what is left of the formula is
computed on vectors along the target, and stored.

Where the end of an axis is no whole tile, its last tile overlaps the one before it if that can
be, else it is computed and stored under conditions. Both lie in one work item, so each element is
stored by one item only.
"""

from __future__ import annotations

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from .elements import Axis
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    Let,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
    variable,
)
from .space import Substitution
from .transposition import Part, Side, Transposition

ITEM_ELEMENTS = 1 << 14  # that a work item should hold at least
ROW = Symbol("u", 0, LANES - 1)  # of a tile
Conditions = tuple[Extent, ...]


def transposed_loops(chosen: Transposition, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, what each does)"""
    return _Emitter(chosen).loops(item)


class _Emitter:
    def __init__(self, chosen: Transposition) -> None:
        self.chosen = chosen
        self.space, self.source, self.target = chosen.space, chosen.source, chosen.target
        self.positions: dict[Symbol, Extent] = {}  # of the axes that no tile has

    def loops(self, item: Symbol) -> tuple[Extent, Statement]:
        """Loops over tiles inside work items over chunks of the two axes and over the others."""
        outer, inner = self._placed()
        outermost, innermost = self.chosen.sides
        body = self._tiles(outermost, self._tiles(innermost, self._tile()))
        for symbol, extent in reversed(inner):
            body = loop(symbol, extent, body)
        rest: Extent = Dim.of(item)
        for place, (symbol, extent) in reversed(list(enumerate(outer))):
            at = rest
            if place:
                assert isinstance(extent, int), "only the outermost extent of the items is symbolic"
                at, rest = rest % extent, rest // extent
            body = Let(symbol, at, body)
        return dim.product([extent for _, extent in outer]), body

    # -- work items ----------------------------------------------------------------------------

    def _placed(self) -> tuple[list[tuple[Symbol, Extent]], list[tuple[Symbol, Extent]]]:
        """(loops that work items decode, loops inside an item), outermost first; an item has
        enough elements if there are so many."""
        sides = [(_chunk_of(side), side.chunks) for side in self.chosen.sides if side.chunks != 1]
        outer: list[tuple[Symbol, Extent]] = []
        inner: list[tuple[Symbol, Extent]] = []
        work = _most(self.source) * _most(self.target)
        for axis in reversed(self.chosen.others):
            self.positions[axis.symbol] = Dim.of(axis.symbol)
            extent = axis.extent
            if not isinstance(extent, int) or work >= ITEM_ELEMENTS:
                outer.insert(0, (axis.symbol, extent))
                continue
            part = -(-ITEM_ELEMENTS // max(work, 1))
            if extent >= 2 * part:
                whole, within = _halves(axis, part)
                self.positions[axis.symbol] = Dim.of(whole.symbol) * part + Dim.of(within.symbol)
                outer.insert(0, (whole.symbol, whole.extent))
                extent, axis = within.extent, within
            inner.insert(0, (axis.symbol, extent))
            work *= part if isinstance(extent, Dim) else extent
        outer = sorted([*outer, *sides], key=lambda loop_: isinstance(loop_[1], int))
        symbolic = sum(isinstance(extent, Dim) for _, extent in outer)
        return [*outer[:1], *outer[max(symbolic, 1) :]], [*outer[1:symbolic], *inner]

    # -- tiles ---------------------------------------------------------------------------------

    def _tiles(self, side: Side, body: Statement) -> Statement:
        """The tiles of a side's chunk, one after another."""
        extent, chunk = side.axis.extent, side.chunk
        if _is_one_tile(side):
            return body
        if _is_numbered(side):
            return self._numbered_tiles(side, body)
        start: Extent = 0 if side.chunks == 1 else Dim.of(_chunk_of(side)) * chunk
        length = extent if side.chunks == 1 else dim.minimum(chunk, extent - start)
        number = dim.ceil_div(length, LANES)
        tile = variable(f"{side.axis.name}t", number)
        at: Extent = Dim.of(tile) * LANES
        if side.overlaps:
            at = dim.minimum(at, length - LANES)
        return loop(tile, number, Let(_start(side), start + at, body))

    def _numbered_tiles(self, side: Side, body: Statement) -> Statement:
        """The same along an axis whose tiles start at multiples of LANES, by their numbers, which
        tell where positions lie in blocks of channels."""
        assert isinstance(side.axis.extent, int) and isinstance(side.chunk, int)
        before: Extent = 0
        number: Extent = -(-side.axis.extent // LANES)
        if side.chunks != 1:
            before = Dim.of(_chunk_of(side)) * (side.chunk // LANES)
            number = dim.minimum(side.chunk // LANES, number - before)
        tile = variable(f"{side.axis.name}t", number)
        return loop(tile, number, Let(_start(side), before + Dim.of(tile), body))

    def _tile(self) -> Statement:
        """A tile: whole, or under the conditions of an axis that ends in it."""
        statements = []
        for in_source, source in _cases(self.source):
            for in_target, target in _cases(self.target):
                statements.append(guard((*in_source, *in_target), self._transposed(source, target)))
        return block(*statements)

    def _transposed(self, cut_source: bool, cut_target: bool) -> Statement:
        """The parts of the value transposed, and what is made of them stored."""
        names = self.space.elements.local_name
        parts = list(self.chosen.parts.items())
        pairs = [
            [Buffer(names(letter), part.dtype, (LANES, LANES), is_local=True) for letter in "st"]
            for _, (part, _) in parts
        ]
        here = {
            id_: Load(made, (Dim.of(ROW), Dim.of(LANE)))
            for (id_, _), (_, made) in zip(parts, pairs, strict=True)
        }
        statements: list[Statement] = []
        for (_, part), (rows, columns) in zip(parts, pairs, strict=True):
            statements += [self._rows(part, rows, cut_source, cut_target), _columns(rows, columns)]
        body = block(*statements, self._stored(here, cut_source, cut_target))
        for buffer in reversed([buffer for pair in pairs for buffer in pair]):
            body = Allocate(buffer, body)
        return body

    def _rows(self, part: Part, rows: Buffer, cut_source: bool, cut_target: bool) -> Statement:
        """A part of the value in vectors along the source, zero behind the ends of the axes."""
        value, conditions = part
        put = self._put(Dim.of(LANE), Dim.of(ROW))
        held = self._conditions(Dim.of(LANE), Dim.of(ROW), cut_source, cut_target)
        made = scalar.guarded((*held, *map(put, conditions)), put.expression(value))
        return _each_row(LANES, Store(rows, (Dim.of(ROW), Dim.of(LANE)), made))

    def _stored(self, here: dict[int, Load], cut_source: bool, cut_target: bool) -> Statement:
        """The value in vectors along the target."""
        put = self._put(Dim.of(ROW), Dim.of(LANE))
        out, index = self.space.stored_at(put)
        value = scalar.rebuild(self.chosen.value, lambda node: here.get(id(node)))
        conditions = self._conditions(Dim.of(ROW), Dim.of(LANE), cut_source, cut_target)
        count = self.source.axis.extent
        rows = min(count, LANES) if isinstance(count, int) else LANES
        streams = self.chosen.bypasses_cache and not conditions
        store = Store(out, index, put.expression(value), streams)
        return _each_row(rows, guard(conditions, store))

    def _put(self, along_source: Extent, along_target: Extent) -> Substitution:
        """Where the axes stand in a tile."""
        tile = {
            self.source.axis.symbol: _begin(self.source) + along_source,
            self.target.axis.symbol: _begin(self.target) + along_target,
        }
        return Substitution({**self.positions, **tile})

    def _conditions(
        self, along_source: Extent, along_target: Extent, cut_source: bool, cut_target: bool
    ) -> Conditions:
        """Where a tile's element is before the ends of the axes that end in it."""
        sides = (self.source, along_source, cut_source), (self.target, along_target, cut_target)
        return tuple(
            side.axis.extent - 1 - _begin(side) - along for side, along, is_cut in sides if is_cut
        )


def _cases(side: Side) -> list[tuple[Conditions, bool]]:
    """(conditions, whether the axis ends inside the tile) of the kinds of tiles that there are
    along a side."""
    extent = side.axis.extent
    if _has_whole_tiles(side):
        return [((), False)]
    if _is_one_tile(side):
        return [((), True)]
    over = _begin(side) + LANES - extent
    return [((-over,), False), ((over - 1,), True)]


def _start(side: Side) -> Symbol:
    """The variable of a tile's first position along a side; of numbered tiles, of its number."""
    if _is_numbered(side):
        return variable(f"{side.axis.name}a", -(-side.axis.extent // LANES))
    return Symbol(
        f"{side.axis.name}a", 0, side.axis.extent - (LANES if _has_whole_tiles(side) else 1)
    )


def _begin(side: Side) -> Extent:
    """A tile's first position along a side."""
    if _is_one_tile(side):
        return 0
    return Dim.of(_start(side)) * (LANES if _is_numbered(side) else 1)


def _is_numbered(side: Side) -> bool:
    """Whether all tiles along a side start at multiples of LANES."""
    return isinstance(side.axis.extent, int) and not side.overlaps


def _is_one_tile(side: Side) -> bool:
    return isinstance(side.axis.extent, int) and side.axis.extent <= LANES


def _has_whole_tiles(side: Side) -> bool:
    """Whether no tile along a side has positions behind its end."""
    extent = side.axis.extent
    return side.overlaps or (isinstance(extent, int) and extent % LANES == 0)


def _chunk_of(side: Side) -> Symbol:
    return variable(f"{side.axis.name}c", side.chunks)


def _most(side: Side) -> int:
    """The elements of a side in a work item, at most; of a symbolic axis as many as a chunk has."""
    return side.chunk if isinstance(side.chunk, int) else LANES


def _halves(axis: Axis, part: int) -> tuple[Axis, Axis]:
    """An axis as chunks and positions within a chunk."""
    whole = Axis.of(f"{axis.name}c", dim.ceil_div(axis.extent, part))
    return whole, Axis.of(f"{axis.name}k", dim.minimum(part, axis.extent - whole.position * part))


def _columns(rows: Buffer, columns: Buffer) -> Statement:
    """t[u, l] = s[l, u]"""
    column = Load(rows, (Dim.of(LANE), Dim.of(ROW)))
    return _each_row(LANES, Store(columns, (Dim.of(ROW), Dim.of(LANE)), column))


def _each_row(count: int, body: Statement) -> Statement:
    return loop(ROW, count, loop(LANE, LANES, body, Kind.VECTOR), Kind.UNROLLED)


__all__ = ["transposed_loops"]
