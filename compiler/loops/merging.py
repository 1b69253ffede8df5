"""Loops of merge_sort: runs of sorted keys are merged in pairs, until one is left.

A work item is a line. The first runs have 16 keys: 16 of them at a time are the columns of a square
of vectors, which a network of comparisons sorts (Batcher, 1968). A round then merges every pair of
runs. Of a pair, one run ascends and the other descends, so that it is merged from its two ends, and
none of them ends before the other; what a pair becomes ascends if its number has an even count of
ones, so that pairs of pairs are such a pair again.
A round is cut into segments, each of which is made key after key; where it begins in its two runs
is found by bisection (the merge path: Odeh, Green, Mwassi, Shmueli, Birk, 2012). A CPU waits for
each key to know where the next one is, so a few segments are made in turn. What is done depends on
no key but in which run is read next: there are no branches to foresee.
Rounds go back and forth between the two rows of the output, the last one into row 0.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..ops.merging import FIRST_RUN, NO_KEY
from ..scalar import Checked, Expr, Index
from ..tensor_type import INT64, MAX_ELEMENTS
from .elements import Elements
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Let,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
    variable,
)
from .plan import Machine
from .scans import Line, in_lanes, over_lines
from .tiles import Schedule

SEGMENT = 256  # keys: both runs of a pair are as long in the round that makes segments of it
CHAINS = 4  # segments that are made in turn
EARLY = SEGMENT.bit_length() - FIRST_RUN.bit_length()  # rounds whose runs no segment is cut from


def _merge_sort(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    *outer, _, extent = k.anchored.output.shape

    def line(at: Line) -> Statement:
        found = rounds_of(extent)
        if isinstance(found, int):
            return guard((extent - 1,), _sorting(k, at, extent, found))
        rounds = Symbol("r", 0, MAX_ELEMENTS.bit_length())  # its formula is long: it is named once
        body = guard((extent - 1,), _sorting(k, at, extent, Dim.of(rounds)))
        return Let(rounds, found, body)

    return over_lines(outer, item, line)


def _sorting(k: Elements, at: Line, extent: Extent, rounds: Extent) -> Statement:
    """A line in so many rounds."""
    late = variable("v", dim.maximum(rounds - EARLY, 0))
    early = (
        guard((rounds - 1 - number,), _Round(k, at, extent, rounds, number).whole_runs())
        for number in range(EARLY)
        if not dim.is_nonnegative(number - rounds)
    )
    last = _Round(k, at, extent, rounds, EARLY + Dim.of(late)).parts_of_runs(late)
    # blocks are stored under conditions only
    begun = Store(k.out, (*at, 0, 0), scalar.literal(NO_KEY, INT64))
    return block(
        begun, _first_runs(k, at, extent), *early, loop(late, dim.maximum(rounds - EARLY, 0), last)
    )  # fmt: skip


def rounds_of(extent: Extent) -> Extent:
    """How often runs double until one is left: how many of 16, 32, 64, .. are below the extent."""
    most = dim.bounds(extent)[1]
    bits = (MAX_ELEMENTS if most is None else min(most, MAX_ELEMENTS)).bit_length()
    powers = [1 << bit for bit in range(FIRST_RUN.bit_length() - 1, bits)]
    found: Extent = 0
    for power in powers:
        found = found + dim.minimum(dim.maximum(extent - power, 0), 1)
    return found


# -- the first runs --------------------------------------------------------------------------------


def _first_runs(k: Elements, at: Line, extent: Extent) -> Statement:
    """Runs of 16 keys in both rows: each run is a column while it is sorted."""
    keys, columns = (Buffer(k.local_name("t"), INT64, (LANES, LANES), True) for _ in range(2))
    spare = Buffer(k.local_name("t"), INT64, (LANES,), True)
    blocks = dim.ceil_div(extent, LANES * LANES)
    number, lane = variable("b", blocks), Dim.of(LANE)

    def rows(made: Callable[[Extent, Extent], Statement]) -> Statement:
        """What is made of each row of the block and the place of its first key."""
        first = Dim.of(number) * LANES * LANES
        return block(*(in_lanes(made(row, first + row * LANES)) for row in range(LANES)))

    def read(row: Extent, place: Extent) -> Statement:
        key = k.element(k.anchored.inputs[0], (*at, place + lane), None)
        key = scalar.call("xor", key, _turns(Index(place // LANES)))
        none = scalar.literal(NO_KEY, INT64)
        return Store(keys, (row, lane), scalar.guarded((extent - 1 - place - lane,), key, none))

    def turn(row: Extent, _place: Extent) -> Statement:
        return Store(columns, (row, lane), Load(keys, (lane, row)))

    def write(result: int, row: Extent, place: Extent) -> Statement:
        key = scalar.call("xor", Load(columns, (lane, row)), _turns(Index(place // LANES)))
        inside = extent - 1 - place - lane
        return guard((inside,), k.store((*at, result, place + lane), key))

    network = (_ordered(columns, spare, low, high) for low, high in comparisons(LANES))
    written = (rows(partial(write, result)) for result in range(2))
    body = loop(number, blocks, block(rows(read), rows(turn), *network, *written))
    return Allocate(keys, Allocate(columns, Allocate(spare, body)))


def comparisons(count: int) -> Iterator[tuple[int, int]]:
    """Batcher's odd-even merge sort of so many elements, a power of two: pairs (low, high) of
    places whose elements are put in order.
    """
    run = 1
    while run < count:
        step = run
        while step:
            for first in range(step % run, count - step, 2 * step):
                for low in range(first, min(first + step, count - step)):
                    if low // (2 * run) == (low + step) // (2 * run):
                        yield low, low + step
            step //= 2
        run *= 2


def _ordered(columns: Buffer, spare: Buffer, low: int, high: int) -> Statement:
    """Two rows, so that the key in the lower one comes first in each column."""
    lane = Dim.of(LANE)
    one, other = Load(columns, (low, lane)), Load(columns, (high, lane))
    return block(
        in_lanes(Store(spare, (lane,), scalar.call("min", one, other))),
        in_lanes(Store(columns, (high, lane), scalar.call("max", one, other))),
        in_lanes(Store(columns, (low, lane), Load(spare, (lane,)))),
    )


def _turns(number: Expr) -> Expr:
    """-1 if the run of that number descends, else 0: all bits of a key are turned with it, which
    turns its order around.
    """
    for shift in (16, 8, 4, 2, 1):
        number = scalar.call("xor", number, scalar.call("shift_right", number, shift))
    return 0 - scalar.call("and", number, 1)


# -- rounds ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Round:
    """A round of one line: runs of 16 * 2^number keys become runs of twice as many."""

    k: Elements
    at: Line
    extent: Extent
    rounds: Extent
    number: Extent

    def whole_runs(self) -> Statement:
        """The round with a segment for each pair of runs."""
        assert isinstance(self.number, int)
        return self._segments(
            scalar.literal(self.number, INT64), FIRST_RUN << self.number + 1, None
        )

    def parts_of_runs(self, late: Symbol) -> Statement:
        """The round with segments that each are part of a pair."""
        return self._segments(Index(self.number), SEGMENT, late)

    def _segments(self, number: Expr, segment: int, late: Symbol | None) -> Statement:
        groups = dim.ceil_div(self.extent, segment * CHAINS)
        group, place = variable("g", groups), variable("i", segment)
        known = Buffer(self.k.local_name("t"), INT64, (CHAINS, len(Known)), True)
        chains = [
            _Chain(self, number, (Dim.of(group) * CHAINS + chain) * segment, known, chain)
            for chain in range(CHAINS)
        ]
        search = block(*(chain.begun() for chain in chains))
        if late is not None:
            steps = Dim.of(late) + SEGMENT.bit_length()
            step = variable("s", steps)
            search = block(
                search, loop(step, steps, block(*(chain.narrowed(step) for chain in chains)))
            )
        merged = block(*(chain.merged(Dim.of(place)) for chain in chains))
        return Allocate(known, loop(group, groups, block(search, loop(place, segment, merged))))

    def key(self, place: Expr) -> Expr:
        """The key at a place, which lies in the line where it matters."""
        last = Index(dim.maximum(self.extent - 1, 0))
        inside = scalar.call("min", scalar.call("and", place, NO_KEY), last)
        row = (self.rounds - self.number) % 2  # the last round reads row 1
        return Load(self.k.out, (*self.at, row, Checked(inside, self.extent)))

    def store(self, place: Extent, key: Expr) -> Statement:
        row = 1 - (self.rounds - self.number) % 2
        return guard((self.extent - 1 - place,), self.k.store((*self.at, row, place), key))


class Known(enum.IntEnum):
    """What a chain knows of its segment."""

    NEXT = 0  # the next place at the front of its pair
    ENDS = 1  # the next places at the front and at the back, less the number of keys to come
    TURNS = 2  # -1 if its result descends, else 0
    KEY = 3  # the next key
    STEP = 4  # whether it is at the front


@dataclass(frozen=True)
class _Chain:
    """A segment that begins at a place."""

    round: _Round
    number: Expr  # of the round
    first: Extent
    known: Buffer
    chain: int

    def _is(self, item: Known) -> Expr:
        return Load(self.known, (self.chain, int(item)))

    def _put(self, item: Known, value: Expr) -> Statement:
        return Store(self.known, (self.chain, int(item)), value)

    def begun(self) -> Statement:
        """At the front of its pair."""
        bits = self.number + FIRST_RUN.bit_length()  # of a place inside a pair
        pair = scalar.call("shift_right", Index(self.first), bits)
        begin = scalar.call("shift_left", pair, bits)
        behind = scalar.call("shift_left", pair + 1, bits)
        end = scalar.call("min", behind, Index(self.round.extent))
        return block(
            self._put(Known.NEXT, begin),
            self._put(Known.ENDS, end - 1 - Index(self.first)),
            self._put(Known.TURNS, _turns(pair)),
        )

    def narrowed(self, step: Symbol) -> Statement:
        """Further at the front, by the next smaller power of two, if the key before that comes
        before what is then the next at the back.
        """
        bits = self.number + (FIRST_RUN.bit_length() - 1) - Index(Dim.of(step))
        further = scalar.call("shift_left", scalar.literal(1, INT64), bits)
        more = self._is(Known.NEXT) + further
        front, back = self._key(more - 1), self._key(self._is(Known.ENDS) + more)
        is_before = scalar.call("and", more <= Index(self.first), front <= back)
        return self._put(Known.NEXT, scalar.select(is_before, more, self._is(Known.NEXT)))

    def merged(self, place: Dim) -> Statement:
        """The one of the keys at the two ends that comes first."""
        reached = self._is(Known.NEXT)
        front = self._key(reached)
        back = self._key(self._is(Known.ENDS) - Index(place) + reached)
        key = scalar.call("xor", self._is(Known.KEY), self._is(Known.TURNS))
        return block(
            self._put(Known.KEY, scalar.call("min", front, back)),
            self._put(Known.STEP, scalar.cast(front <= back, INT64)),
            self._put(Known.NEXT, reached + self._is(Known.STEP)),
            self.round.store(self.first + place, key),
        )

    def _key(self, place: Expr) -> Expr:
        """The key at a place, so that it ascends from both ends of the pair."""
        return scalar.call("xor", self.round.key(place), self._is(Known.TURNS))


SCHEDULES: Final[Mapping[str, Schedule]] = {"merge_sort": _merge_sort}
