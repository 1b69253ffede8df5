"""Loops of merge_sort: runs of 1, 2, 4, .. sorted keys are merged in pairs, until one is left.

A work item is a line. In each round all lanes merge: the result is cut into segments, and a lane
makes one segment, key after key. Where in its two runs a lane begins, it finds by bisection of its
segment's first place (the merge path: Odeh, Green, Mwassi, Shmueli, Birk, 2012). What a round does
depends on no key but in which run is read next, so there are no branches to foresee.
Rounds go back and forth between the two rows of the output, the last one into row 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Checked, Expr, Index
from ..tensor_type import INT64, MAX_ELEMENTS
from .elements import Elements
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
    variable,
)
from .plan import Machine
from .scans import Line, over_lines
from .tiles import Schedule

LEAST_SEGMENT, MOST_SEGMENT = 8, 64  # keys that a lane makes in a row; powers of two
NO_KEY: Final = (1 << 63) - 1  # behind the end of a run: no key is larger


def _merge_sort(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    *outer, _, extent = k.anchored.output.shape

    def line(at: Line) -> Statement:
        rounds = variable("v", rounds_of(extent))
        body = _Round(k, at, extent, rounds).statement
        sorting = loop(rounds, rounds_of(extent), body)
        return guard((extent - 1,), block(_copied(k, at, extent), sorting))

    return over_lines(outer, item, line)


def rounds_of(extent: Extent) -> Extent:
    """How often runs double until one is left: how many powers of two are below the extent."""
    if isinstance(extent, int):
        return max(extent - 1, 0).bit_length()
    most = dim.bounds(extent)[1]
    bits = (MAX_ELEMENTS if most is None else min(most, MAX_ELEMENTS)).bit_length()
    powers = [1 << bit for bit in range(bits)]
    return sum((dim.minimum(dim.maximum(extent - power, 0), 1) for power in powers), start=0)


def segment_of(extent: Extent) -> int:
    """Keys that a lane makes in a row: few where lines are short, so that all lanes have some."""
    if not isinstance(extent, int):
        return 2 * LEAST_SEGMENT
    found = LEAST_SEGMENT
    while found < MOST_SEGMENT and found * LANES < extent:
        found *= 2
    return found


def _copied(k: Elements, at: Line, extent: Extent) -> Statement:
    """Both rows as the line: runs of 1."""
    place = variable("j", extent)
    key = k.element(k.anchored.inputs[0], (*at, Dim.of(place)), None)
    rows = (k.store((*at, row, Dim.of(place)), key) for row in range(2))
    return loop(place, extent, block(*rows))


@dataclass(frozen=True)
class _Round:
    """One round of one line, in which runs of 2^round become runs of twice as many."""

    k: Elements
    at: Line
    extent: Extent
    round: Symbol

    @property
    def statement(self) -> Statement:
        segment = segment_of(self.extent)
        vectors = dim.ceil_div(self.extent, segment * LANES)
        vector, step = variable("g", vectors), variable("s", Dim.of(self.round) + 1)
        place = variable("i", segment)
        first = (Dim.of(vector) * LANES + Dim.of(LANE)) * segment
        search = loop(step, Dim.of(self.round) + 1, _lanes(self._narrowed(Index(first), step)))
        body = block(
            _lanes(self._put(self.taken, scalar.literal(0, INT64))),
            search,
            loop(place, segment, self._merged(first + Dim.of(place))),
        )
        return Allocate(self.state, loop(vector, vectors, body))

    @cached_property
    def state(self) -> Buffer:
        """What each lane has taken of its first run, and its next key."""
        return Buffer(self.k.local_name("t"), INT64, (2, LANES), is_local=True)

    @property
    def taken(self) -> Load:
        return Load(self.state, (0, Dim.of(LANE)))

    @property
    def next(self) -> Load:
        return Load(self.state, (1, Dim.of(LANE)))

    @property
    def run(self) -> Expr:
        return scalar.call("shift_left", scalar.literal(1, INT64), Index(Dim.of(self.round)))

    def _narrowed(self, first: Expr, step: Symbol) -> Statement:
        """More of the first run, by the next smaller power of two, if the last of them comes
        before what is then the next of the second run.
        """
        offset = scalar.call("and", first, 2 * self.run - 1)
        begin = first - offset
        more = self.taken + scalar.call("shift_right", self.run, Index(Dim.of(step)))
        mine = self._key(begin + more - 1, begin + self.run)
        other = self._key(begin + self.run + offset - more, begin + 2 * self.run)
        is_before = scalar.call("and", more <= offset, more <= self.run)
        is_before = scalar.call("and", is_before, begin + more <= Index(self.extent))
        is_before = scalar.call("and", is_before, mine <= other)
        return self._put(self.taken, scalar.select(is_before, more, self.taken))

    def _merged(self, place: Dim) -> Statement:
        """The smaller of two keys at a place, the first run's of equals."""
        here = Index(place)
        offset = scalar.call("and", here, 2 * self.run - 1)
        taken = scalar.select(scalar.call("equal", offset, 0), 0, self.taken)
        begin = here - offset
        first = self._key(begin + taken, begin + self.run)
        second = self._key(begin + self.run + offset - taken, begin + 2 * self.run)
        is_first = scalar.cast(first <= second, INT64)
        stored = self.k.store((*self.at, 1 - self._row, place), self.next)
        return block(
            _lanes(block(self._put(self.next, scalar.call("min", first, second)),
                         self._put(self.taken, taken + is_first))),
            _lanes(guard((self.extent - 1 - place,), stored)),
        )  # fmt: skip

    @property
    def _row(self) -> Extent:
        """The row that is read; the last round reads row 1."""
        return (rounds_of(self.extent) - Dim.of(self.round)) % 2

    def _key(self, place: Expr, end: Expr) -> Expr:
        """The key at a place of a run that ends there, or with the line."""
        last = Index(dim.maximum(self.extent - 1, 0))
        inside = Checked(scalar.call("max", scalar.call("min", place, last), 0), self.extent)
        key = scalar.guarded([self.extent - 1], Load(self.k.out, (*self.at, self._row, inside)))
        is_inside = scalar.call("and", place < end, place <= last)
        return scalar.select(is_inside, key, scalar.literal(NO_KEY, INT64))

    def _put(self, slot: Load, value: Expr) -> Statement:
        return Store(self.state, slot.extents, value)


def _lanes(body: Statement) -> Statement:
    return loop(LANE, LANES, body, Kind.VECTOR)


SCHEDULES: Final[Mapping[str, Schedule]] = {"merge_sort": _merge_sort}
