"""A plan -> statements: work items decoded, tiles with their tails, accumulators cleared, added up
and stored.

Conditions that hold for a whole tile are tested around its statements; what depends on the lane
stays at the load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Call, Expr, Guarded
from .ahead import Ahead, gathered_rows, next_chunk, symbols_in
from .elements import Axis, widened
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    LaneFold,
    Let,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
    slope_along,
    variable,
)
from .items import TOTALS
from .panels import Sweep, sweep_of
from .plan import Plan
from .space import Substitution
from .tile_conditions import is_zero, outer_conditions, without

Units: TypeAlias = tuple[tuple[Symbol, int], ...]  # unrolled loops and their extents
Index: TypeAlias = tuple[Extent, ...]


@dataclass(frozen=True)
class _Place:
    """Where statements are made: the positions of the axes that are bound, and how many rows or
    columns a tile has there.
    """

    positions: Mapping[Symbol, Extent]
    counts: Mapping[Symbol, int]

    def at(self, axis: Axis, position: Extent, count: int = 1) -> _Place:
        """The place with one more axis bound."""
        counts = {**self.counts, axis.symbol: count} if axis.symbol in self.counts else self.counts
        return _Place({**self.positions, axis.symbol: position}, counts)

    def unit(self, axis: Axis) -> Units:
        """The unrolled loop over an axis's part of a tile, if it has several."""
        size = self.counts.get(axis.symbol, 1)
        return ((_unit(axis, size), size),) if size > 1 else ()


_Body: TypeAlias = Callable[[_Place], Statement]


def emit_tiles(plan: Plan, item: Symbol) -> Statement:
    """The body of a kernel: what work item ``item`` does."""
    return _Emitter(plan, item).statement()


class _Emitter:
    def __init__(self, plan: Plan, item: Symbol) -> None:
        self.item = item
        self.ahead: Ahead | None = None  # of the chunk whose statements are made
        self.keeps_sums = False  # in the item whose statements are made
        self.plan, self.space, self.elements = plan, plan.space, plan.space.elements
        self.lanes: tuple[int, ...] = (LANES,) if plan.tile.has_lanes else ()
        self.at_lane: Index = (Dim.of(LANE),) if plan.tile.has_lanes else ()

    def statement(self) -> Statement:
        """Decode the work item, run the inner axes, and in the middle the tile."""
        body = self._axes(
            self.plan.outer, _Place({}, self.plan.tile.counts), self._swept, is_item=True
        )
        together = self.plan.together
        rest: Extent = Dim.of(self.item) // together
        for axis in reversed(self.plan.outer[1:]):
            tiles = self.plan.tiles(axis)
            assert isinstance(tiles, int)
            body = Let(variable(axis.name, tiles), rest % tiles, body)
            rest = rest // tiles
        for axis in self.plan.outer[:1]:
            tiles = self.plan.tiles(axis)
            number = rest * together + Dim.of(self.item) % together
            body = Let(variable(axis.name, tiles), number, body)
            if together > 1:  # the last ones may lack some
                body = guard((tiles - 1 - number,), body)
        return body

    # -- axes --------------------------------------------------------------------------------------

    def _axes(self, axes: Sequence[Axis], place: _Place, end: _Body, is_item: bool) -> Statement:
        """Bind one axis after another: those of items by condition, others by loops."""
        if not axes:
            return end(place)
        return self._bound(
            axes[0], place, lambda inner: self._axes(axes[1:], inner, end, is_item), is_item
        )

    def _bound(self, axis: Axis, place: _Place, then: _Body, is_item: bool) -> Statement:
        """Whole tiles along an axis, then the tile at its end."""
        size = place.counts.get(axis.symbol, 1)
        if size == 1:
            return self._one_by_one(axis, place, then, is_item)
        full = axis.extent // size
        whole = variable(axis.name, full)
        main = then(place.at(axis, Dim.of(whole) * size + Dim.of(_unit(axis, size)), size))
        statements: list[Statement] = []
        if full != 0:
            in_tiles = (full - 1 - self._number(axis),)
            statements.append(guard(in_tiles, main) if is_item else loop(whole, full, main))
        if axis.extent % size != 0:
            # a window over more than there is leaves an extent below 0, whose remainder is no tail
            tail = self._tail(axis, full * size, axis.extent % size, place, then)
            tail = guard((axis.extent,), tail)
            behind = (self._number(axis) - full,)
            statements.append(guard(behind, tail) if is_item and full != 0 else tail)
        return block(*statements)

    def _one_by_one(self, axis: Axis, place: _Place, then: _Body, is_item: bool) -> Statement:
        """Every position of an axis; of vectors, where the plan says so, first those of which all
        lanes are stored, and then the last one, whose lanes are known."""
        whole = self._whole_vectors(axis) if self.plan.parts_last else 0
        symbol = variable(axis.name, whole or axis.extent)
        body = then(place.at(axis, Dim.of(symbol)))
        if not whole:
            return body if is_item else loop(symbol, axis.extent, body)
        last = then(place.at(axis, whole))
        if not is_item:
            return block(loop(symbol, whole, body), last)
        number = self._number(axis)
        return block(guard((whole - 1 - number,), body), guard((number - whole,), last))

    def _whole_vectors(self, axis: Axis) -> int:
        """How many vectors along an axis are stored whole, if those behind them are not."""
        for condition in self.space.store_guard:
            end = dim.substitute(condition, {LANE: LANES - 1, axis.symbol: 0})
            if isinstance(end, int) and slope_along(condition, axis.symbol) == -LANES:
                return max(end // LANES + 1, 0)
        return 0

    def _number(self, axis: Axis) -> Dim:
        """The tile that a work item has along an axis."""
        return Dim.of(variable(axis.name, self.plan.tiles(axis)))

    def _tail(
        self, axis: Axis, base: Extent, rest: Extent, place: _Place, then: _Body
    ) -> Statement:
        """The tile at the end of an axis: smaller if its size is known, else a few rows at a time,
        then one.
        """
        if isinstance(rest, int):
            unit: Extent = 0 if rest == 1 else Dim.of(_unit(axis, rest))
            return then(place.at(axis, base + unit, rest))
        few = math.isqrt(place.counts[axis.symbol])
        statements: list[Statement] = []
        if few > 1:
            some = variable(f"{axis.name}f", rest // few)
            at = base + Dim.of(some) * few + Dim.of(_unit(axis, few))
            statements.append(loop(some, rest // few, then(place.at(axis, at, few))))
            base, rest = base + rest // few * few, rest % few
        single = variable(f"{axis.name}t", rest)
        statements.append(loop(single, rest, then(place.at(axis, base + Dim.of(single)))))
        return block(*statements)

    # -- items and tiles ---------------------------------------------------------------------------

    def _swept(self, place: _Place) -> Statement:
        return self._axes(self.plan.swept, place, self._item, is_item=False)

    def _item(self, place: _Place) -> Statement:
        """What one work item does: one tile after another, or, of long sums, one chunk of terms
        after another.
        """
        inner, chunks = self.plan.inner, self.plan.chains.outer
        units = tuple(
            unit for axis in (*self.plan.outer, *self.plan.swept) for unit in place.unit(axis)
        )
        kept = _kept((*(axis.extent for axis in inner), *(size for _, size in units)))
        if not inner or not chunks or self.plan.tile.lanes_reduce or kept is None:
            return self._axes(inner, place, self._tile, is_item=False)
        totals = self._buffer("t", (*kept, *self.lanes))

        def at(here: _Place) -> Index:
            return (
                *(here.positions[axis.symbol] for axis in inner),
                *_positions(units),
                *self.at_lane,
            )

        def clear(here: _Place) -> Statement:
            return self._clear(totals, at(here), here)

        def add(here: _Place) -> Statement:
            part = self._part(totals, at(here), here)
            return block(part, guard(is_last, finish(here))) if stores_tiles else part

        def finish(here: _Place) -> Statement:
            return self._finished(totals, at(here), here)

        # a tile's results are stored behind its last terms: memory then has the time of a tile
        is_last = tuple(axis.position - (axis.extent - 1) for axis in chunks)
        stores_tiles = all((dim.bounds(axis.extent)[0] or 0) > 0 for axis in chunks)
        self.ahead, self.keeps_sums = next_chunk(self.plan, self.item), True
        middle = self._axes(inner, place, add, is_item=False)
        if self.ahead is not None:
            middle = self.ahead.around(middle)
        self.ahead, self.keeps_sums = None, False
        first = self._axes(inner, place, clear, is_item=False)
        statements = [first, _looped(chunks, middle)]
        if not stores_tiles:
            statements.append(self._axes(inner, place, finish, is_item=False))
        return Allocate(totals, block(*statements))

    def _tile(self, place: _Place) -> Statement:
        """One register tile: clear, accumulate, finish."""
        if self.elements.compute is None:
            hints = gathered_rows(self.plan, self._value(place, None), place.positions)
            return block(*hints, self._stored(place, None))
        chains = self.plan.chains
        total, at = self._accumulators("t", place)
        if chains.outer:
            sums = _looped(chains.outer, self._part(total, at, place))
        else:
            sums = self._accumulate(total, at, place)
        return Allocate(
            total, block(self._clear(total, at, place), sums, self._finished(total, at, place))
        )

    def _part(self, total: Buffer, at: Index, place: _Place) -> Statement:
        """Adds the sums of one chunk of terms, made in registers, to the totals of a tile."""
        partial, here = self._accumulators("a", place)
        merge = self._each(
            Store(total, at, self._combined(Load(total, at), Load(partial, here))), place
        )
        clear = self._clear(partial, here, place)
        return Allocate(partial, block(clear, self._accumulate(partial, here, place), merge))

    # -- accumulators ------------------------------------------------------------------------------

    def _accumulators(self, letter: str, place: _Place) -> tuple[Buffer, Index]:
        """A local buffer for a tile's sums, and where in it one of them lies."""
        units = self._units(place)
        return self._buffer(letter, (*(size for _, size in units), *self.lanes)), (
            *_positions(units),
            *self.at_lane,
        ) or (0,)

    def _buffer(self, letter: str, shape: Index) -> Buffer:
        return Buffer(
            self.elements.local_name(letter), self.plan.sum_dtype, shape or (1,), is_local=True
        )

    def _units(self, place: _Place) -> Units:
        """The unrolled row and column loops of the tile at a place."""
        tile = self.plan.tile
        return tuple(
            unit for axis in (tile.rows, tile.columns) if axis for unit in place.unit(axis)
        )

    def _each(
        self, body: Statement, place: _Place, lanes: bool = True, terms: Sequence[Axis] = ()
    ) -> Statement:
        """A statement for every accumulator of the tile; of few terms that are copied out, all
        those of one sum before the next: registers hold what one sum reads, and what the next
        ones share of it."""
        if lanes and self.lanes:
            body = loop(LANE, LANES, body, Kind.VECTOR)
        for axis in reversed(terms):
            body = loop(axis.symbol, axis.extent, body, Kind.UNROLLED)
        for symbol, size in reversed(self._units(place)):
            body = loop(symbol, size, body, Kind.UNROLLED)
        return body

    def _clear(self, buffer: Buffer, at: Index, place: _Place) -> Statement:
        neutral = scalar.literal(self.elements.neutral(buffer.dtype), buffer.dtype)
        return self._each(Store(buffer, at, neutral), place)

    def _combined(self, left: Expr, right: Expr) -> Expr:
        return scalar.call(self.elements.computed.combine, left, right)

    def _accumulate(self, buffer: Buffer, at: Index, place: _Place) -> Statement:
        """One chain of terms added to the accumulators."""
        term = widened(self._put(place).expression(self.space.term), buffer.dtype)
        value = self._added(term, Load(buffer, at))
        sweep = self._sweep(place)
        axes, copied = self._looped_and_copied(sweep is not None or self.ahead is not None)
        if copied and not axes:
            return self._each(Store(buffer, at, value), place, terms=copied)
        hints_inside = -1 if sweep is None else sweep.depth - len(sweep.terms) + len(axes)
        units = [*(symbol for symbol, _ in self._units(place)), *(axis.symbol for axis in copied)]
        tested = outer_conditions(value, units)
        body = self._each(Store(buffer, at, without(value, tested)), place, terms=copied)
        for depth in range(len(axes), -1, -1):
            inner = {axis.symbol for axis in axes[depth:]}
            here = [
                c
                for c in tested
                if not inner & c.symbols() and (depth == 0 or axes[depth - 1].symbol in c.symbols())
            ]
            body = guard(tuple(here), body)
            if sweep is not None and depth == hints_inside:
                body = block(*sweep.hints(), body)
            if depth:
                body = loop(axes[depth - 1].symbol, axes[depth - 1].extent, body)
            if depth == len(axes) and self.ahead is not None and not tested:
                body = block(*self._prefetches(self.ahead, term, axes[-1], place), body)
        return body if sweep is None else sweep.around(body)

    def _looped_and_copied(self, has_hints: bool) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """The loops over the terms of a chain, and those of them that are copied out instead: all,
        or some inner ones, where no hints stand between them."""
        axes, count = self.plan.chains.inner, self.plan.tile.copied_terms
        place = len(axes) if has_hints and count < len(axes) else len(axes) - count
        return axes[:place], axes[place:]

    def _sweep(self, place: _Place) -> Sweep | None:
        """What the tile at a place asks for of the next panel."""
        units = {axis.symbol: place.unit(axis) for axis in (*self.plan.outer, *self.plan.inner)}
        counts = {symbol: unit[0] for symbol, unit in units.items() if unit}
        return sweep_of(self.plan, self.item, place.positions, counts, self.keeps_sums)

    def _prefetches(self, ahead: Ahead, term: Expr, line: Axis, place: _Place) -> list[Statement]:
        """Hints for what a tile reads in the next chunk, in copies along the tile's axes."""
        hints = ahead.prefetches(term, line)
        for symbol, size in self._units(place) if hints else ():
            if symbol in symbols_in(hints):
                hints = [loop(symbol, size, block(*hints), Kind.UNROLLED)]
        return hints

    def _added(self, term: Expr, present: Expr) -> Expr:
        """A term combined with what is there; a product of floats by one rounding."""
        is_sum = self.elements.computed.combine == "add"
        match term:
            case Call("dot_bytes", (left, right, _)):  # of the kernel's own making: from zero
                return scalar.call("dot_bytes", left, right, present)
            case Call("mul", (left, right), dtype) if is_sum and dtype.is_float:
                return scalar.call("fma", left, right, present)
            case Guarded(conditions, Call("mul", (left, right), dtype), otherwise) if (
                is_sum and dtype.is_float and is_zero(otherwise)
            ):
                zero = scalar.literal(0, dtype)
                return scalar.call(
                    "fma",
                    Guarded(conditions, left, zero),
                    Guarded(conditions, right, zero),
                    present,
                )
        return self._combined(present, term)

    # -- results -----------------------------------------------------------------------------------

    def _put(self, place: _Place) -> Substitution:
        return Substitution({**place.positions, **self.plan.chains.split})

    def _finished(self, total: Buffer, at: Index, place: _Place) -> Statement:
        """Stores the results of sums."""
        if self.plan.tile.lanes_reduce:
            sum_: Expr = LaneFold(total, at[:-1], self.elements.computed.combine)
        else:
            sum_ = Load(total, at)
        return self._stored(place, self.elements.finished(self.space.index, sum_))

    def _value(self, place: _Place, sum_: Expr | None) -> Expr:
        """What is stored at a place."""
        final = self.elements.final(self.space.index, sum_)
        return self.space.placed(final, self._put(place))

    def _stored(self, place: _Place, sum_: Expr | None) -> Statement:
        put, value = self._put(place), self._value(place, sum_)
        conditions = tuple(map(put, self.space.store_guard))
        out, position = self.space.stored_at(put)
        streams = self.plan.bypasses_cache and self.plan.tile.has_lanes
        return self._each(
            guard(conditions, Store(out, position, value, streams)),
            place,
            lanes=not self.plan.tile.lanes_reduce,
        )


def _unit(axis: Axis, size: int) -> Symbol:
    """The variable of the unrolled loop over an axis's part of a tile."""
    return variable(f"{axis.name}u", size)


def _positions(units: Units) -> Index:
    return tuple(Dim.of(symbol) for symbol, _ in units)


def _looped(axes: Sequence[Axis], body: Statement) -> Statement:
    for axis in reversed(axes):
        body = loop(axis.symbol, axis.extent, body)
    return body


def _kept(extents: Sequence[Extent]) -> tuple[int, ...] | None:
    """The most that extents can be; None if a work item cannot keep so many totals."""
    highest = [dim.bounds(extent)[1] for extent in extents]
    known = tuple(high for high in highest if high is not None)
    return known if len(known) == len(highest) and math.prod(known) <= TOTALS else None


__all__ = ["emit_tiles"]
