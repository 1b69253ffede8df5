"""Loops of running_sum, search_sorted and suppress.

Of sums and suppressed boxes each element needs those before it, so a work item is a line. A search
takes vectors of 16 values, each lane with a place of its own.
``suppress`` compares a box with vectors of 16 boxes before it; what it has kept so far is read
again from its own output, which therefore has no epilogue (passes/fuse.py sees to it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Value
from ..scalar import Checked, Expr
from ..tensor_type import INT32, INT64, MAX_ELEMENTS
from .elements import Axis, Elements
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
    variable,
)
from .plan import Machine
from .tiles import Schedule

VECTORS = 64  # of values in one work item of a search
Line = tuple[Extent, ...]  # the index of a line


def _running_sum(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    (x,), shape = k.anchored.inputs, k.anchored.output.shape

    def line(at: Line) -> Statement:
        total = Buffer(k.local_name("t"), INT64, (1,), is_local=True)
        place, sum_ = variable("i", shape[-1]), Load(total, (0,))
        index = (*at, Dim.of(place))
        added = Store(total, (0,), sum_ + k.element(x, index, None))
        body = loop(place, shape[-1], block(added, k.store(index, sum_)))
        return Allocate(total, block(Store(total, (0,), scalar.literal(0, INT64)), body))

    return _over_lines(shape[:-1], item, line)


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
            return _lanes(Store(found, (row, Dim.of(LANE)), number))

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
            _lanes(k.store((*line, here), place, (count - 1 - here,))),
        )
        return Allocate(found, loop(vector, vectors, body))

    return _over_lines((*outer, dim.ceil_div(count, VECTORS * LANES)), item, part)


def _suppress(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    boxes, candidates, threshold = k.anchored.inputs
    *lines, extent = candidates.shape

    def line(at: Line) -> Statement:
        place, first = variable("i", extent), variable("j", extent)
        here = Dim.of(first)
        taken = Store(k.out, (*at, here), k.element(candidates, (*at, here), None))
        own = Dim.of(place)
        blocks = dim.ceil_div(own, LANES)
        number = variable("b", blocks)
        other = Dim.of(number) * LANES + Dim.of(LANE)
        hit = Buffer(k.local_name("t"), INT32, (LANES,), is_local=True)
        lane = (Dim.of(LANE),)
        overlap = _overlaps(k, boxes, threshold, at, other, own)
        is_hit = scalar.call("and", Load(k.out, (*at, other)), overlap)
        seen = scalar.guarded([own - 1 - other], scalar.cast(is_hit, INT32))
        any_hit = Store(hit, lane, scalar.call("max", Load(hit, lane), seen))
        is_free = scalar.call("equal", LaneFold(hit, (), "max"), 0)
        kept = Store(k.out, (*at, own), scalar.call("and", Load(k.out, (*at, own)), is_free))
        clear = _lanes(Store(hit, lane, scalar.literal(0, INT32)))
        body = Allocate(hit, block(clear, loop(number, blocks, _lanes(any_hit)), kept))
        begin = loop(first, extent, taken)
        if extent == 0:
            return begin
        return guard((extent - 1,), block(begin, loop(place, extent, body)))

    return _over_lines(lines, item, line)


def _overlaps(k: Elements, boxes: Value, threshold: Value, at: Line, i: Extent, j: Extent) -> Expr:
    """Whether two boxes overlap by more than the threshold."""

    def ends(place: Extent) -> list[Expr]:
        return [k.element(boxes, (*at, end, place), None) for end in range(4)]

    (y0, x0, y1, x1), (v0, u0, v1, u1) = ends(i), ends(j)
    height = scalar.call("min", y1, v1) - scalar.call("max", y0, v0)
    width = scalar.call("min", x1, u1) - scalar.call("max", x0, u0)
    shared = height * width
    area, own = (y1 - y0) * (x1 - x0), (v1 - v0) * (u1 - u0)
    result = shared / (area + own - shared) > k.element(threshold, (), None)
    for side in (height, width, area, own):
        result = scalar.call("and", result, side > 0)
    return result


def _lanes(body: Statement) -> Statement:
    return loop(LANE, LANES, body, Kind.VECTOR)


def _over_lines(
    shape: Sequence[Extent], item: Symbol, line: Callable[[Line], Statement]
) -> tuple[Extent, Statement]:
    """(work items, the body of one): one line each, but that symbolic axes after the first are
    loops inside, for only the outermost part of an item's number may be symbolic.
    """
    axes = [Axis.of(f"p{place}", extent) for place, extent in enumerate(shape)]
    symbolic = [axis for axis in axes if isinstance(axis.extent, Dim)]
    outer = [*symbolic[:1], *(axis for axis in axes if isinstance(axis.extent, int))]
    body = line(tuple(axis.position for axis in axes))
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


SCHEDULES: Final[Mapping[str, Schedule]] = {
    "running_sum": _running_sum, "search_sorted": _search_sorted, "suppress": _suppress,
}  # fmt: skip
