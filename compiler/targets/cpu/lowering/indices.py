"""Extents -> integers: loop variables and symbols in scope, conditions, and which lanes run.

An extent is an int if all in it is known, else an i64, or a vector of i64 with the lane in it.
Nothing in it overflows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from math import prod
from typing import Any

from llvmlite import ir

from .... import dim
from ....dim import Dim, Extent, Minimum, Quotient, Remainder, Symbol
from ....loops.ir import LANE, LANES, slope_along
from .function import Function, MadeInBlock
from .representation import (
    I1,
    I32,
    I64,
    Mask,
    Operand,
    constant,
    is_vector,
    known_lanes,
    numbers_by_lane,
    vector_of,
    zero_of,
)

_LANES = numbers_by_lane(range(LANES))  # the number of each
MOST_NARROW = 1 << 30  # which 32 bits hold, and its negative
_NARROW_LANES = ir.Constant(vector_of(I32), list(range(LANES)))


class Indices:
    """What names mean where code is added, and the integers made of them."""

    def __init__(self, f: Function) -> None:
        self.f, self.b = f, f.b
        self.values: dict[str, Any] = {}  # of loop variables and symbols: int or i64
        self.in_lanes = False  # inside a vector loop
        self.mask: Operand | None = None  # lanes that run, in a vector loop
        self.is_tail = False  # the mask is an end of an axis: lane 0 runs
        self.flag: Operand | None = None  # whether a load, which no branch guards, may read
        self.tested: tuple[Extent, ...] = ()  # the conditions that hold here
        self.by_lane: tuple[Extent, ...] = ()  # those that the mask was made of
        self.copied: Mapping[
            Symbol, int
        ] = {}  # variables of unrolled loops, and their last numbers
        self._names_of: dict[Extent, tuple[str, ...]] = {}
        self._at_lane: dict[tuple[Extent, int], Extent] = {}

    # -- scope -------------------------------------------------------------------------------------

    @contextmanager
    def bound(self, variable: Symbol, value: Any) -> Iterator[None]:
        """A name for a value."""
        saved = self.values.get(variable.name)
        self.values[variable.name] = value
        yield
        if saved is None:
            del self.values[variable.name]
        else:
            self.values[variable.name] = saved

    @contextmanager
    def copy(self, variable: Symbol, number: int, count: int) -> Iterator[None]:
        """One of the copies of an unrolled loop's body."""
        saved, self.copied = self.copied, {**self.copied, variable: count - 1}
        with self.bound(variable, number):
            yield
        self.copied = saved

    @contextmanager
    def masked(
        self, mask: Operand | None, conditions: Sequence[Extent], is_tail: bool
    ) -> Iterator[None]:
        """Where conditions hold, and so only lanes of a mask (None: all that run so far)."""
        saved = self.mask, self.is_tail, self.tested, self.by_lane
        self.tested = (*self.tested, *conditions)
        if mask is not None:
            self.mask, self.is_tail = self.f.both(self.mask, mask), is_tail
            self.by_lane = (*self.by_lane, *(c for c in conditions if LANE.name in self._names(c)))
        yield
        self.mask, self.is_tail, self.tested, self.by_lane = saved

    @contextmanager
    def reading_if(self, flag: Operand) -> Iterator[None]:
        """Where loads may read under a flag only and give zero otherwise, without a branch."""
        assert self.flag is None
        self.flag = flag
        yield
        self.flag = None

    def window(self, offset: Extent) -> tuple[Extent, int, int]:
        """(where a window of neighbours starts, the place in it of the element at an offset, its
        last place): copies of a loop's body read all of it, each in the same lanes."""
        for atoms, factor in offset.terms if isinstance(offset, Dim) else ():
            match atoms:
                case (Symbol() as symbol,) if factor == 1 and symbol in self.copied:
                    names = {tested.name for tested in dim.symbols_of(self.tested)}
                    if slope_along(offset, symbol) == 1 and symbol.name not in names:
                        start = dim.substitute(offset, {symbol: 0})
                        return start, self.values[symbol.name], self.copied[symbol]
        return offset, 0, 0

    def once(
        self,
        made: MadeInBlock,
        item: Hashable,
        extents: Sequence[Extent],
        make: Callable[[], Operand],
    ) -> Operand:
        """A leaf's value: if this block holds it already, for the same values of its extents'
        symbols, that one.
        """
        key = (item, self._where(extents), self.mask, self.is_tail, self.flag)
        return made.once(self.b.block, key, make)

    def number(self, item: Hashable, extent: Extent, make: Callable[[], Operand]) -> Operand:
        """The same for what depends on no memory and on no mask."""
        return self.f.numbers.once((item, self._where([extent])), make)

    def _where(self, extents: Sequence[Extent]) -> tuple[Any, ...]:
        """The values of the symbols."""
        return tuple(self.values.get(name) for extent in extents for name in self._names(extent))

    def _names(self, extent: Extent) -> tuple[str, ...]:
        """The symbols of an extent, in order."""
        if extent not in self._names_of:
            self._names_of[extent] = tuple(
                sorted(symbol.name for symbol in dim.symbols_of([extent]))
            )
        return self._names_of[extent]

    def conditions(self, conditions: Sequence[Extent]) -> tuple[Operand | None, Operand | None]:
        """(a bit for all lanes or None if always true, a mask by lane or None)."""
        flag: Operand | None = None
        mask: Operand | None = None
        for condition in conditions:
            slope = slope_along(condition, LANE) if self.in_lanes else 0
            if slope in (1, -1):
                bit = self._lanes_of(condition, slope == 1)
            else:
                value = self.extent(condition)
                if isinstance(value, int):
                    if value < 0:
                        flag = I1(0)
                    continue
                bit = self._is_natural(value)
            if is_vector(bit):
                mask = mask if all(known_lanes(bit) or (0,)) else self.f.both(mask, bit)
            else:
                flag = self.f.both(flag, bit)
        return flag, mask

    def _lanes_of(self, condition: Extent, begins: bool) -> Operand:
        """The lanes of a condition that begin or end at one of them. Its place is compared with
        their numbers in 32 bits, as wide as a float32 is: a machine without masks of bits takes
        several instructions to narrow a comparison in 64."""
        end = dim.substitute(condition, {LANE: 0})
        place = self.extent(end)
        if isinstance(place, int):
            return Mask([place >= (-lane if begins else lane) for lane in range(LANES)])

        def make() -> Operand:
            near = self._clamped(place, end)
            if begins:
                first = self.f.vector(self.b.neg(near))
                return self.b.icmp_signed(">=", _NARROW_LANES, first)
            return self.b.icmp_signed("<=", _NARROW_LANES, self.f.vector(near))

        return self.f.numbers.once(("lanes", place, begins), make)

    def _clamped(self, place: Operand, end: Extent) -> Operand:
        """A number in 32 bits; LANES or its negative, which are beyond all lanes, if it may need
        more."""
        low, high = dim.bounds(end)
        if high is None or high > MOST_NARROW:
            place = self.b.select(self.b.icmp_signed("<", place, I64(LANES)), place, I64(LANES))
        if low is None or low < -MOST_NARROW:
            place = self.b.select(self.b.icmp_signed(">", place, I64(-LANES)), place, I64(-LANES))
        return self.b.trunc(place, I32)

    def may_run(self) -> Operand | None:
        """Whether a lane of the mask may run, as far as that is not proved: none does where a
        condition does not hold in the lane that it holds in first."""
        lanes = [lane for lane in range(LANES) if self._is_possible(lane)]
        flag: Operand | None = None
        for condition in self.by_lane if lanes else ():
            slope = slope_along(condition, LANE)
            if slope is not None:
                best = dim.substitute(condition, {LANE: lanes[-1 if slope > 0 else 0]})
                flag = self.f.both(flag, self.conditions(dim.unproved([best]))[0])
        return flag

    def _is_possible(self, lane: int) -> bool:
        """Whether a lane of the mask may run, as far as is known when compiling."""
        here = (dim.substitute(condition, {LANE: lane}) for condition in self.by_lane)
        return not any(isinstance(end, int) and end < 0 for end in here)

    def runs(self, lane: int) -> Operand | None:
        """Whether a lane of the mask runs, from the conditions that it was made of; None: it is
        known that it does."""
        flag: Operand | None = None
        for condition in self.by_lane:
            key = condition, lane
            if key not in self._at_lane:
                self._at_lane[key] = dim.substitute(condition, {LANE: lane})
            flag = self.f.both(flag, self.conditions([self._at_lane[key]])[0])
        return flag

    def all_run(self) -> Operand | None:
        """Whether all lanes of the mask run: the first and the last one do, between which its
        conditions do not turn; None if that is known, or not to be told so."""
        slopes = [slope_along(condition, LANE) for condition in self.by_lane]
        if not slopes or None in slopes or known_lanes(self.mask) is not None:
            return None
        return self.f.both(self.runs(0), self.runs(LANES - 1))

    # -- integers ----------------------------------------------------------------------------------

    def extent(self, extent: Extent) -> Any:
        """An int, an i64, or (with the lane in it) a vector of i64."""
        total, number = self.parts(extent)
        if total is None:
            return number
        return total if number == 0 else self.plus(total, number)

    def parts(self, extent: Extent) -> tuple[Any, int]:
        """(what is not known or has the lane in it, or None; a number) whose sum an extent is.

        Products of the same unknowns are one term, so copies of a body that meet the same element
        (row u and tap r of a window, of rows of any length) have one address for it."""
        if isinstance(extent, int):
            return None, extent
        sums: dict[tuple[Any, ...], int] = {}  # what is not known of a term: its factor
        for atoms, factor in extent.terms:
            values = [self._atom(atom) for atom in atoms]
            unknown = tuple(value for value in values if not isinstance(value, int))
            known = prod(value for value in values if isinstance(value, int))
            sums[unknown] = sums.get(unknown, 0) + factor * known
        number = sums.pop((), 0)
        total: Any = None
        for unknown, factor in sums.items():
            if not factor:
                continue
            term = reduce(self.times, unknown, factor)
            total = term if total is None else self.plus(total, term)
        return total, number

    def _is_natural(self, value: Operand) -> Operand:
        known = known_lanes(value)
        if known is not None:
            return Mask([number >= 0 for number in known])
        make = partial(self.b.icmp_signed, ">=", value, zero_of(value))
        return self.f.numbers.once(("natural", value), make)

    def i64(self, value: Any) -> Operand:
        """An int as a constant."""
        return I64(value) if isinstance(value, int) else value

    def plus(self, left: Any, right: Any) -> Any:
        """left + right"""
        if isinstance(left, int) and isinstance(right, int):
            return left + right
        return self._combined("add", self.b.add, left, right)

    def times(self, left: Any, right: Any) -> Any:
        """left * right"""
        if isinstance(left, int) and isinstance(right, int):
            return left * right
        if isinstance(left, int) and left == 1:
            return right
        return self._combined("mul", self.b.mul, left, right)

    def _combined(self, name: str, emit: Callable[..., Operand], left: Any, right: Any) -> Operand:
        """The result of an instruction; copies of an unrolled body share it."""
        known = self._known(getattr(operator, name), left, right)
        if known is not None:
            return known

        def make() -> Operand:
            return emit(*self.matched(left, right), flags=["nsw"])

        return self.f.numbers.once((name, left, right), make)

    def _known(self, function: Callable[[int, int], int], left: Any, right: Any) -> Any:
        """A function of two integers by lane, if they are known."""
        if not any(isinstance(v, ir.Constant) for v in (left, right)):
            return None
        a, b = ((v,) * LANES if isinstance(v, int) else known_lanes(v) for v in (left, right))
        return None if a is None or b is None else numbers_by_lane(list(map(function, a, b)))

    def matched(self, left: Any, right: Any) -> tuple[Operand, Operand]:
        """Both as scalars or both as vectors."""
        left, right = self.i64(left), self.i64(right)
        if is_vector(left) != is_vector(right):
            left, right = self.f.vector(left), self.f.vector(right)
        return left, right

    def _atom(self, atom: dim.Atom) -> Any:
        match atom:
            case Symbol(name):
                if name == LANE.name and self.in_lanes and name not in self.values:
                    return _LANES
                return self.values[name]
            case Quotient(numerator, divisor):
                return self._divided(numerator, divisor, False)
            case Remainder(numerator, divisor):
                return self._divided(numerator, divisor, True)
            case Minimum(left, right):
                a, b = self.extent(left), self.extent(right)
                if isinstance(a, int) and isinstance(b, int):
                    return min(a, b)
                known = self._known(min, a, b)
                if known is not None:
                    return known
                a, b = self.matched(a, b)
                return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def _divided(self, numerator: Dim, divisor: int, remainder: bool) -> Any:
        """Floor division, or what it leaves."""
        value = self.extent(numerator)
        exact = operator.mod if remainder else operator.floordiv
        if isinstance(value, int):
            return exact(value, divisor)
        known = self._known(exact, value, divisor)
        if known is not None:
            return known
        by = constant(value, I64, divisor)
        if dim.is_nonnegative(numerator):
            return self.b.urem(value, by) if remainder else self.b.udiv(value, by)
        quotient = self.b.sdiv(value, by)
        rest = self.b.sub(value, self.b.mul(quotient, by))
        is_below = self.b.icmp_signed("<", rest, zero_of(rest))
        if remainder:
            return self.b.select(is_below, self.b.add(rest, by), rest)
        return self.b.add(quotient, self.b.sext(is_below, value.type))


__all__ = ["Indices"]
