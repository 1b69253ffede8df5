"""Loops of first_places with ranks: a line is passed over once, and the first so many elements are listed in
order.

Vectors of 16 elements are compared with the last of the list, which few of them precede: of n in no
order about k ln(n / k). Each that does is put where it belongs, which moves those behind it by one
place, vector by vector, the last one first. So the work is at most that of k / 16 vectors for each
element, whatever the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..ops.sorting import less
from ..scalar import Expr, Index
from ..tensor_type import INT32, INT64, DType
from .digits import Digits
from .elements import Elements, accumulated_in
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Load,
    Statement,
    Store,
    When,
    block,
    guard,
    loop,
    variable,
)
from .plan import Machine
from .scans import Line, in_lanes, over_lines, with_any
from .tiles import Schedule

NOWHERE: Final = -1  # the place of what is listed where the list has no element yet


def _first_places(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    attrs = k.anchored.attrs
    dtype = accumulated_in(k.anchored.inputs[0].dtype)

    def line(at: Line) -> Statement:
        if attrs.is_ranked:
            return _Listing(k, at, attrs.size, attrs.descending, dtype).statement()
        return Digits(k, at, attrs.size, attrs.descending).statement()

    return over_lines(k.anchored.output.shape[:-1], item, line)


@dataclass(frozen=True)
class _Listing:
    """The first elements of a line: entry 16 + i of the list is the i-th, entry 15 precedes all."""

    k: Elements
    at: Line
    size: int
    descending: bool
    dtype: DType

    @cached_property
    def vectors(self) -> int:
        return -(-self.size // LANES)

    @cached_property
    def values(self) -> Buffer:
        return self._local(self.dtype, 1 + self.vectors)

    @cached_property
    def places(self) -> Buffer:
        return self._local(INT32, 1 + self.vectors)

    def _local(self, dtype: DType, vectors: int) -> Buffer:
        return Buffer(self.k.local_name("t"), dtype, (vectors * LANES,), is_local=True)

    def statement(self) -> Statement:
        """The list is made and stored: the first elements of the line fill it."""
        extent = self.k.anchored.inputs[0].shape[-1]
        vectors = (extent - self.size) // LANES
        number, place = variable("b", vectors), variable("i", LANES)
        filling, left = variable("i", self.size), variable("i", LANES)
        behind = self.size + vectors * LANES + Dim.of(left)
        first = self.size + Dim.of(number) * LANES
        each = loop(place, LANES, self._taken(first + Dim.of(place)))
        search = with_any(
            self.k, self._may_precede(first + Dim.of(LANE)), lambda found: found,
            lambda is_none: When(scalar.call("not", is_none), each),
        )  # fmt: skip
        body = block(
            self._begun(),
            loop(filling, self.size, self._insert(Dim.of(filling), self._precedes_or_fills)),
            loop(number, vectors, search),
            loop(left, LANES, guard((extent - 1 - behind,), self._taken(behind))),
            self._stored(),
        )
        return Allocate(self.values, Allocate(self.places, body))

    def _taken(self, place: Extent) -> Statement:
        """An element is listed if it precedes one that is."""
        return When(self._may_precede(place), self._insert(place, self._precedes))

    @property
    def _last(self) -> int:
        """The entry that leaves the list next."""
        return LANES + self.size - 1

    def _may_precede(self, place: Extent) -> Expr:
        """Whether an element precedes the last of the list, for numbers; NaN is not told apart."""
        x, last = self._element(place), Load(self.values, (self._last,))
        is_behind = (x <= last) if self.descending else (x >= last)
        return scalar.call("not", is_behind)

    def _element(self, place: Extent) -> Expr:
        x = self.k.element(self.k.anchored.inputs[0], (*self.at, place), None)
        return scalar.cast(x, self.dtype)

    def _precedes(self, x: Expr, entry: Extent) -> Expr:
        """Whether an element that comes later in the line comes before an entry in order."""
        listed = Load(self.values, (entry,))
        return less(listed, x) if self.descending else less(x, listed)

    def _precedes_or_fills(self, x: Expr, entry: Extent) -> Expr:
        """The same, or whether there is no entry yet."""
        return scalar.call("or", self._precedes(x, entry), Load(self.places, (entry,)) < 0)

    def _begun(self) -> Statement:
        """A list without elements."""
        vector = variable("v", 1 + self.vectors)
        entry = Dim.of(vector) * LANES + Dim.of(LANE)
        ahead = scalar.literal(_ahead_of_all(self.dtype, self.descending), self.dtype)
        return block(
            loop(vector, 1 + self.vectors, in_lanes(Store(self.values, (entry,), ahead))),
            loop(vector, 1 + self.vectors,
                 in_lanes(Store(self.places, (entry,), scalar.literal(NOWHERE, INT32)))),
            Store(self.places, (LANES - 1,), scalar.literal(0, INT32)),
        )  # fmt: skip

    def _insert(self, place: Extent, precedes: Callable[[Expr, Extent], Expr]) -> Statement:
        """An element is put behind all that it does not precede."""
        values, places = self._local(self.dtype, 1), self._local(INT32, 1)
        vector, lane = variable("v", self.vectors), Dim.of(LANE)
        entry = (self.vectors - Dim.of(vector)) * LANES + lane
        x, own = self._element(place), scalar.cast(Index(place), INT32)

        def moved(buffer: Buffer, given: Expr) -> Expr:
            here, before = Load(buffer, (entry,)), Load(buffer, (entry - 1,))
            moves, ends = precedes(x, entry - 1), precedes(x, entry)
            return scalar.select(moves, before, scalar.select(ends, given, here))

        body = block(
            in_lanes(Store(values, (lane,), moved(self.values, x))),
            in_lanes(Store(places, (lane,), moved(self.places, own))),
            in_lanes(Store(self.values, (entry,), Load(values, (lane,)))),
            in_lanes(Store(self.places, (entry,), Load(places, (lane,)))),
        )
        if self.vectors > 1:  # vectors ahead of the element stay as they are
            last = (self.vectors - Dim.of(vector)) * LANES + LANES - 1
            body = When(precedes(x, dim.minimum(last, self._last)), body)
        return Allocate(values, Allocate(places, loop(vector, self.vectors, body)))

    def _stored(self) -> Statement:
        vector = variable("v", self.vectors)
        entry = Dim.of(vector) * LANES + Dim.of(LANE)
        place = scalar.cast(Load(self.places, (LANES + entry,)), INT64)
        stored = self.k.store((*self.at, entry), place, (self.size - 1 - entry,))
        return loop(vector, self.vectors, in_lanes(stored))


def _ahead_of_all(dtype: DType, descending: bool) -> float | int:
    """A number that none precedes; NaN counts as the largest."""
    if dtype.is_float:
        return float("nan") if descending else float("-inf")
    bits = 8 * dtype.bytes - int(dtype.is_signed)
    if descending:
        return (1 << bits) - 1
    return -(1 << bits) if dtype.is_signed else 0


SCHEDULES: Final[Mapping[str, Schedule]] = {"first_places": _first_places}
