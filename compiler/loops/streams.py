"""What a kernel reads or writes once, line after line of a large array, is asked for ahead.

Processors see such a stream and read ahead of it by themselves, but only within a page of 4096
bytes, and not while they compute: a row of a softmax is asked for when the row before it is stored.
A line that is stored is read before, too, unless the store goes past the caches. So beside a
vector goes a hint for what lies AHEAD bytes behind it; where a run of memory is shorter than that,
for the same place of a later run.

It holds of whatever loops a kernel has: pools, sums over rows, rows in several passes, transforms.
Of several passes over an array the last one that reads it has the hints, for the first waits for
memory anyway, and the first one that writes it. Arrays that tiles read again and again have their
own hints (ahead.py, panels.py) or none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from .. import dim, scalar
from ..dim import Extent, Symbol
from .ahead import NEAR
from .ir import (
    LANE,
    LANES,
    Allocate,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Kind,
    Let,
    Load,
    Prefetch,
    Statement,
    Store,
    When,
    block,
    expressions_in,
    slope_along,
    walk,
)
from .plan import LINE, bytes_of

AHEAD = 8 << 10  # bytes
MOST_USES = 1.5  # of an element, on average
MOST_STEP = 4  # elements between neighbouring lanes
NEARLY = 1.25  # of a run: what follows so close behind goes on where it ends
FEWEST = 4  # times as many runs as a hint is ahead
LONG = 0.5  # of the longest pass over an array: shorter ones are ends of others


def with_hints(kernel: Kernel) -> Kernel:
    """The kernel with hints for what it reads or writes once."""
    arguments = {buffer for buffer in kernel.buffers if bytes_of(buffer) > NEAR}
    outputs: set[Buffer] = set()
    for statement in walk(kernel.body) if arguments else ():
        match statement:
            case Prefetch(Load(buffer)) | Store(buffer, bypasses_cache=True):
                arguments.discard(buffer)
            case Store(buffer):
                outputs.add(buffer)
    if not arguments:
        return kernel
    items = _Loop(kernel.variable, dim.bounds(kernel.items)[1])
    passes: dict[Buffer, dict[Statement, _Pass]] = {}
    for element, nest, offset in _elements_in(kernel.body, (), {}):
        buffer = element.buffer
        if buffer in arguments and (isinstance(element, Store) or buffer not in outputs):
            inside = next((s for s in reversed(nest) if s.kind is Kind.SERIAL), kernel.body)
            use = _Use(Load(buffer, element.extents), offset, items, nest)
            passes.setdefault(buffer, {}).setdefault(inside, {}).setdefault(offset, use)
    hints: dict[Statement, list[Statement]] = {}
    for buffer, found in passes.items():
        ordered = list(found.values()) if buffer in outputs else list(reversed(found.values()))
        for use in _first_long(ordered):
            hints.setdefault(use.place, []).extend(use.hints())
    return replace(kernel, body=_with(kernel.body, hints)) if hints else kernel


def _first_long(passes: Sequence[_Pass]) -> list[_Use]:
    """The uses in the first pass over an array that is not the end of another, if it is a stream."""
    longest = max(map(_vectors, passes))
    first = next(each for each in passes if _vectors(each) >= LONG * longest)
    uses = list(first.values())
    used = _vectors(first) * LANES * uses[0].load.dtype.bytes
    is_once = 0 < used <= MOST_USES * bytes_of(uses[0].load.buffer)
    return uses if is_once and all(use.distance for use in uses) else []


def _vectors(uses: _Pass) -> int:
    """How many a pass uses at most; 0 if that is not known."""
    return sum(math.prod(loop.turns or 0 for loop in use.loops) for use in uses.values())


@dataclass(frozen=True)
class _Loop:
    """``turns``: at most so many; None: nobody knows."""

    variable: Symbol
    turns: int | None
    is_unrolled: bool = False

    @classmethod
    def of(cls, loop: For) -> _Loop:
        return cls(loop.variable, dim.bounds(loop.extent)[1], loop.kind is Kind.UNROLLED)


@dataclass(frozen=True, eq=False)
class _Use:
    """A vector that is read, or written at the place of ``load``; ``offset`` says by the variables
    of its loops where that is. ``items``: those of the kernel; ``nest``: the loops in it, the
    outermost first, the vector loop last."""

    load: Load
    offset: Extent
    items: _Loop
    nest: tuple[For, ...]

    @cached_property
    def loops(self) -> tuple[_Loop, ...]:
        """All around the vector."""
        return (self.items, *(_Loop.of(each) for each in self.nest[:-1]))

    @property
    def step(self) -> int:
        """Elements between neighbouring lanes; 0 if they are no stream."""
        found = slope_along(self.offset, LANE)
        return found if found is not None and 0 < found <= MOST_STEP else 0

    @cached_property
    def place(self) -> Statement:
        """What a hint goes in front of: the vector loop, or the outermost loop in which the vector
        moves by less than a line."""
        place, *around = reversed(self.nest)
        for loop in around:
            slope = slope_along(self.offset, loop.variable)
            is_near = slope is not None and abs(slope) < self._per_line
            if not is_near or loop.kind is not Kind.UNROLLED or loop.body is not place:
                break
            place = loop
        return place

    def hints(self) -> list[Statement]:
        """For each line of the vector, what is read later at its place."""
        later, inside = self.distance, self.nest[self.nest.index(self.place) :]
        first = {LANE: 0} | {loop.variable: 0 for loop in inside}
        *before, last = (dim.substitute(part, first) for part in self.load.extents)
        return [
            Prefetch(Load(self.load.buffer, (*before, last + later + line)))
            for line in range(0, self.step * LANES, self._per_line)
        ]

    @property
    def _per_line(self) -> int:
        return LINE // self.load.dtype.bytes

    @cached_property
    def distance(self) -> int:
        """How many elements later a hint is for; 0 where no hint would be of use. A tile's own
        loops come first, in any order, for its parts are read together: where these lie apart, it
        has several streams, which processors follow better without hints (measured: weights that
        a batch of one is multiplied with). Then come the loops around it, as long as they go on
        where the inner ones end; the first that does not leads to the next run of memory."""
        ahead = AHEAD // self.load.dtype.bytes
        run = self.step * LANES
        if not run:
            return 0
        for slope, turns in sorted(self._slopes(is_unrolled=True)):
            if slope > run:
                return 0
            run = max(run, slope * turns)
        for slope, turns in self._slopes(is_unrolled=False):
            if run >= ahead:
                break
            if slope > NEARLY * run:
                steps = -(-ahead // run)
                return slope * steps if steps * FEWEST <= turns else 0
            run = max(run, slope * turns)
        return ahead if run >= ahead else 0

    def _slopes(self, is_unrolled: bool) -> Iterator[tuple[int, int]]:
        """(elements from turn to turn, turns) of loops that have several, the innermost first;
        those around one that walks no constant steps are left out."""
        for loop in reversed(self.loops):
            slope = slope_along(self.offset, loop.variable)
            if slope is None:
                return
            if slope and (loop.turns or 0) > 1 and loop.is_unrolled is is_unrolled:
                yield abs(slope), loop.turns or 0


# the uses of a buffer in one pass over it, by their offsets
_Pass: TypeAlias = dict[Extent, _Use]


def _elements_in(
    statement: Statement, nest: tuple[For, ...], lets: Mapping[Symbol, Extent]
) -> Iterator[tuple[Load | Store, tuple[For, ...], Extent]]:
    """The loads and stores in the vector loops of a statement in order: (each, its loops, its
    offset)."""
    match statement:
        case For(kind=Kind.VECTOR):
            for inner in walk(statement):
                found: list[Load | Store] = [
                    n for n in scalar.post_order(expressions_in(inner)) if isinstance(n, Load)
                ]
                for element in [*found, inner] if isinstance(inner, Store) else found:
                    if not element.index_expressions:
                        offset = dim.substitute(element.buffer.offset(element.extents), lets)
                        yield element, (*nest, statement), offset
        case For(body=body):
            yield from _elements_in(body, (*nest, statement), lets)
        case Let(variable, extent, body):
            yield from _elements_in(body, nest, {**lets, variable: dim.substitute(extent, lets)})
        case Block(statements):
            for each in statements:
                yield from _elements_in(each, nest, lets)
        case If(body=body) | When(body=body) | Allocate(body=body):
            yield from _elements_in(body, nest, lets)


def _with(statement: Statement, hints: Mapping[Statement, Sequence[Statement]]) -> Statement:
    """The statement with hints in front of those that have some."""
    made = statement
    match statement:
        case Block(statements):
            made = block(*(_with(each, hints) for each in statements))
        case For() | If() | When() | Allocate() | Let():
            body = _with(statement.body, hints)
            made = statement if body is statement.body else replace(statement, body=body)
    return block(*hints[statement], made) if statement in hints else made


__all__ = ["with_hints"]
