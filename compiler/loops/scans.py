"""Loops of running_sum, true_positions, search_sorted and suppress.

Of sums, positions and suppressed boxes each element needs those before it, so a work item is a line,
or, of sums along an axis that is not the last one, some lines beside each other.
A search takes vectors of 16 values, each lane with a place of its own.
``true_positions`` looks for blocks that have an element at all. In these it stores every place behind
those that it has found, and goes on only if the element holds: there is no branch to foresee. What
was stored last is no place that was wanted, so the output has room for one more.
``suppress`` compares a box with vectors of 16 boxes before it, or of a list of those that it has
kept. What it has decided is read again from its own output, which therefore has no epilogue
(passes/fuse.py sees to it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Value
from ..ops.searching import summed_in
from ..scalar import Checked, Expr, Index
from ..tensor_type import BOOL, INT64, MAX_ELEMENTS
from .elements import Axis, Elements
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    LaneFold,
    Load,
    Statement,
    Store,
    When,
    block,
    guard,
    loop,
    variable,
)
from .lines import Lines
from .numbering import over_items
from .plan import Machine
from .tiles import Schedule

BLOCK = 32  # elements that are looked at before each of them is
VECTORS = 64  # of values in one work item of a search
SUMS = 64  # lines beside each other that one work item adds up
Line = tuple[Extent, ...]  # the index of a line
Each = Callable[[Statement], Statement]


def _running_sum(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one): lines beside each other are added up in lanes, all vectors of
    an item together, or one after another where they are not so many."""
    (x,), attrs, shape = k.anchored.inputs, k.anchored.attrs, k.anchored.output.shape
    wide = summed_in(x.dtype)
    lines = Lines(shape, attrs.axis % len(shape), SUMS)
    number = variable("i", lines.extent)
    entry = lines.extent - 1 - Dim.of(number) if attrs.reverse else Dim.of(number)

    def summed(sums: tuple[int, ...], at: Line, column: Extent, each: Each,
               inside: tuple[Extent, ...] = ()) -> Statement:  # fmt: skip
        """All entries of the lines at a column, which have their sums at a place in registers."""
        total = Buffer(k.local_name("t"), wide, sums, is_local=True)
        index, sum_ = lines.at(entry, column), Load(total, at)
        term = scalar.cast(k.element(x, index, None), wide)
        added = each(guard(inside, Store(total, at, sum_ + term)))
        stored = each(k.store(index, scalar.cast(sum_, x.dtype), inside))
        step = block(stored, added) if attrs.exclusive else block(added, stored)
        clear = each(Store(total, at, scalar.literal(0, wide)))
        return Allocate(total, block(clear, loop(number, lines.extent, step)))

    if lines.is_last:
        return lines.items(item, summed((1,), (0,), 0, lambda one: one))
    part, vector = variable("u", SUMS // LANES), variable("v", dim.ceil_div(lines.columns, LANES))
    column = lines.first + Dim.of(part) * LANES + Dim.of(LANE)
    together = summed(
        (SUMS // LANES, LANES), (Dim.of(part), Dim.of(LANE)), column,
        lambda one: loop(part, SUMS // LANES, in_lanes(one), Kind.UNROLLED),
    )  # fmt: skip
    here = lines.first + Dim.of(vector) * LANES + Dim.of(LANE)
    alone = summed((LANES,), (Dim.of(LANE),), here, in_lanes, (shape[-1] - 1 - here,))
    apart = loop(vector, dim.ceil_div(lines.columns, LANES), alone)
    missing = lines.first + SUMS - shape[-1]
    return lines.items(item, _either(missing - 1, apart, together))


def _either(condition: Extent, then: Statement, otherwise: Statement) -> Statement:
    """One of two statements, as a condition says."""
    least, most = dim.bounds(condition)
    if least is not None and least >= 0:
        return then
    if most is not None and most < 0:
        return otherwise
    return block(guard((condition,), then), guard((-1 - condition,), otherwise))


def _true_positions(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    (x,), (*outer, room) = k.anchored.inputs, k.anchored.output.shape
    extent = x.shape[-1]

    def line(at: Line) -> Statement:
        found = Buffer(k.local_name("t"), INT64, (1,), is_local=True)
        count = Load(found, (0,))
        end = Checked(scalar.call("min", count, Index(room - 1)), room)
        blocks, vector = dim.ceil_div(extent, BLOCK), variable("v", dim.ceil_div(room, LANES))
        number = variable("b", blocks)
        first = Dim.of(number) * BLOCK

        def some(place: Extent) -> Expr:
            here = first + place
            return scalar.guarded([extent - 1 - here], k.element(x, (*at, here), None), False)

        place, part = variable("i", BLOCK), variable("u", BLOCK // LANES)
        seen = some(Dim.of(part) * LANES + Dim.of(LANE))
        search = partial(loop, part, BLOCK // LANES, kind=Kind.UNROLLED)
        holds = scalar.cast(some(Dim.of(place)), INT64)
        listed = block(
            Store(k.out, (*at, end), Index(first + Dim.of(place))),
            Store(found, (0,), count + holds),
        )
        each = loop(place, BLOCK, listed)
        parts = with_any(k, seen, search, lambda is_none: When(scalar.call("not", is_none), each))
        here = Dim.of(vector) * LANES + Dim.of(LANE)
        none = guard((room - 1 - here,), Store(k.out, (*at, here), Index(extent)))
        body = block(
            Store(found, (0,), scalar.literal(0, INT64)),
            loop(vector, dim.ceil_div(room, LANES), in_lanes(none)),
            loop(number, blocks, parts),
            Store(k.out, (*at, end), Index(extent)),
        )
        return Allocate(found, body)

    return over_lines(outer, item, line)


def _search_sorted(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one): the place of a value grows by powers of two, the largest
    first, while what stands before it is not larger.
    """
    lines, values = k.anchored.inputs
    (*outer, count), extent = values.shape, lines.shape[-1]
    most = dim.bounds(extent)[1]
    steps = min(MAX_ELEMENTS if most is None else most, MAX_ELEMENTS).bit_length()
    last = scalar.Index(dim.maximum(extent - 1, 0))

    def part(at: Line) -> Statement:
        *line, chunk = at
        found = Buffer(k.local_name("t"), INT64, (2, LANES), is_local=True)
        place, step = (Load(found, (row, Dim.of(LANE))) for row in range(2))
        vectors = dim.minimum(VECTORS, dim.ceil_div(count, LANES) - chunk * VECTORS)
        vector = variable("v", vectors)
        here = (chunk * VECTORS + Dim.of(vector)) * LANES + Dim.of(LANE)
        value = scalar.guarded([count - 1 - here], k.element(values, (*line, here), None))
        probed = place + step
        before = Checked(scalar.call("min", probed - 1, last), extent)
        element = scalar.guarded([extent - 1], k.element(lines, (*line, before), None))
        is_before = scalar.call("and", probed <= scalar.Index(extent), element <= value)

        def put(row: int, number: Expr) -> Statement:
            return in_lanes(Store(found, (row, Dim.of(LANE)), number))

        body = block(
            put(0, scalar.literal(0, INT64)),
            put(1, scalar.literal(1 << steps >> 1, INT64)),
            loop(
                variable("s", steps),
                steps,
                block(
                    put(0, scalar.select(is_before, probed, place)),
                    put(1, scalar.call("shift_right", step, 1)),
                ),
            ),
            in_lanes(k.store((*line, here), place, (count - 1 - here,))),
        )
        return Allocate(found, loop(vector, vectors, body))

    return over_lines((*outer, dim.ceil_div(count, VECTORS * LANES)), item, part)


def _suppress(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    most = k.anchor.attrs.most if k.anchor else None
    extent = k.anchored.output.shape[-1]
    line = _all_before(k, extent) if most is None else _listed(k, extent, most)

    def whole(at: Line) -> Statement:
        return _copied(k, at) if extent == 0 else guard((extent - 1,), line(at))

    return over_lines(k.anchored.output.shape[:-1], item, whole)


def _all_before(k: Elements, extent: Extent) -> Callable[[Line], Statement]:
    """Compares a box with all before it, of which the output says whether they were kept."""
    boxes = k.anchored.inputs[0]

    def line(at: Line) -> Statement:
        place = variable("i", extent)
        own = Dim.of(place)
        blocks = dim.ceil_div(own, LANES)
        number = variable("b", blocks)
        other = Dim.of(number) * LANES + Dim.of(LANE)
        overlap = _overlaps(k, _ends(k, boxes, at, other), _ends(k, boxes, at, own))
        is_hit = scalar.call("and", Load(k.out, (*at, other)), overlap)
        seen = scalar.guarded([own - 1 - other], is_hit, False)

        def decided(is_free: Expr) -> Statement:
            kept = scalar.call("and", Load(k.out, (*at, own)), is_free)
            return Store(k.out, (*at, own), kept)

        body = with_any(k, seen, lambda search: loop(number, blocks, search), decided)
        return block(_copied(k, at), loop(place, extent, body))

    return line


def _copied(k: Elements, at: Line) -> Statement:
    """A line of the output as its candidates."""
    candidates = k.anchored.inputs[1]
    place = variable("j", candidates.shape[-1])
    here = (*at, Dim.of(place))
    return loop(place, candidates.shape[-1], Store(k.out, here, k.element(candidates, here, None)))


def _listed(k: Elements, extent: Extent, most: int) -> Callable[[Line], Statement]:
    """Compares a box with a list of those that were kept, ``most`` at most; where the list has no
    box yet, it has one without area, which overlaps none.
    """
    boxes, candidates, _ = k.anchored.inputs
    shape = (4, dim.ceil_div(most, LANES), LANES)

    def line(at: Line) -> Statement:
        listed = Buffer(k.local_name("t"), boxes.dtype, shape, is_local=True)
        count = Buffer(k.local_name("t"), INT64, (1,), is_local=True)
        known = Load(count, (0,))
        place, clear = variable("i", extent), variable("j", shape[1])
        own = Dim.of(place)
        ends = _ends(k, boxes, at, own)
        blocks = dim.ceil_div(dim.minimum(own, most), LANES)
        number = variable("b", blocks)

        def places(vector: Symbol) -> list[Line]:
            return [(end, Dim.of(vector), Dim.of(LANE)) for end in range(4)]

        others = [Load(listed, other) for other in places(number)]
        seen = _overlaps(k, others, ends)
        is_kept = Load(k.out, (*at, own))
        # behind those that are listed; it stays there if it is kept
        last = scalar.call("min", known, most - 1)
        into = (scalar.call("div", last, LANES), scalar.call("rem", last, LANES))
        added = [
            Store(listed, (end, *into), scalar.select(is_kept, value, Load(listed, (end, *into))))
            for end, value in enumerate(ends)
        ]

        def decided(is_free: Expr) -> Statement:
            candidate = k.element(candidates, (*at, own), None)
            return block(
                Store(k.out, (*at, own), scalar.call("and", candidate, is_free)),
                *added,
                Store(count, (0,), known + scalar.cast(is_kept, INT64)),
            )

        def over_known(search: Statement) -> Statement:
            """The vectors of the list that hold a box."""
            is_filled = Index(Dim.of(number) * LANES) < known
            return loop(number, blocks, When(is_filled, search))

        compared = with_any(k, seen, over_known, decided)
        body = block(
            Store(k.out, (*at, own), scalar.literal(False, BOOL)), When(known < most, compared)
        )
        zero = scalar.literal(0, boxes.dtype)
        cleared = [in_lanes(Store(listed, entry, zero)) for entry in places(clear)]
        begin = block(
            Store(count, (0,), scalar.literal(0, INT64)), loop(clear, shape[1], block(*cleared))
        )
        return Allocate(listed, Allocate(count, block(begin, loop(place, extent, body))))

    return line


def with_any(
    k: Elements,
    seen: Expr,
    over: Callable[[Statement], Statement],
    then: Callable[[Expr], Statement],
) -> Statement:
    """What follows from whether ``seen`` holds in no lane of any iteration."""
    hit = Buffer(k.local_name("t"), BOOL, (LANES,), is_local=True)
    lane = (Dim.of(LANE),)
    clear = in_lanes(Store(hit, lane, scalar.literal(False, BOOL)))
    search = in_lanes(Store(hit, lane, scalar.call("or", Load(hit, lane), seen)))
    is_free = scalar.call("not", LaneFold(hit, (), "or"))
    return Allocate(hit, block(clear, over(search), then(is_free)))


def _ends(k: Elements, boxes: Value, at: Line, place: Extent) -> list[Expr]:
    """y0, x0, y1, x1 of a box."""
    return [k.element(boxes, (*at, end, place), None) for end in range(4)]


def _overlaps(k: Elements, one: Sequence[Expr], other: Sequence[Expr]) -> Expr:
    """Whether two boxes overlap by more than the threshold."""
    (y0, x0, y1, x1), (v0, u0, v1, u1) = one, other
    height = scalar.call("min", y1, v1) - scalar.call("max", y0, v0)
    width = scalar.call("min", x1, u1) - scalar.call("max", x0, u0)
    shared = height * width
    area, own = (y1 - y0) * (x1 - x0), (v1 - v0) * (u1 - u0)
    result = shared / (area + own - shared) > k.element(k.anchored.inputs[2], (), None)
    for side in (height, width, area, own):
        result = scalar.call("and", result, side > 0)
    return result


def in_lanes(body: Statement) -> Statement:
    return loop(LANE, LANES, body, Kind.VECTOR)


def over_lines(
    shape: Sequence[Extent], item: Symbol, line: Callable[[Line], Statement]
) -> tuple[Extent, Statement]:
    """(work items, the body of one): one line each."""
    axes = [Axis.of(f"p{place}", extent) for place, extent in enumerate(shape)]
    return over_items(axes, item, line(tuple(axis.position for axis in axes)))


SCHEDULES: Final[Mapping[str, Schedule]] = {
    "running_sum": _running_sum, "true_positions": _true_positions,
    "search_sorted": _search_sorted, "suppress": _suppress,
}  # fmt: skip
