"""Loops of run_sum: a work item holds the sums of a few vectors of columns, and goes through all
rows.

Where a run begins, the sums begin anew. Two sums are kept, of the chunk and of the chunks before
it, so that no chain of additions is longer than ``CHAIN``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Expr, Index
from .elements import Axis, Elements, accumulated_in
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
    loop,
    variable,
)
from .numbering import over_items
from .plan import CHAIN, Machine
from .tiles import Schedule

VECTORS: Final = 4  # of columns in one work item


def _run_sum(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    x, numbers = k.anchored.inputs
    rows, columns = x.shape
    most = -(-columns // LANES) if isinstance(columns, int) else VECTORS
    vectors = min(VECTORS, most)
    part = Axis.of("p0", dim.ceil_div(columns, LANES * vectors))
    dtype = accumulated_in(x.dtype)
    within, before = (Buffer(k.local_name("t"), dtype, (vectors, LANES), True) for _ in range(2))
    zero = scalar.literal(0, dtype)
    chunks = dim.ceil_div(rows, CHAIN)
    chunk = variable("c", chunks)
    length = dim.minimum(CHAIN, rows - Dim.of(chunk) * CHAIN)
    place = variable("i", length)
    row = Dim.of(chunk) * CHAIN + Dim.of(place)
    number, last = (k.element(numbers, (at,), None) for at in (row, dim.maximum(row - 1, 0)))
    goes_on = scalar.call("and", Index(row) > 0, scalar.call("equal", number, last))

    def lanes(vector: int, *stores: tuple[Buffer, Expr]) -> Statement:
        at = (vector, Dim.of(LANE))
        return _lanes(block(*(Store(buffer, at, value) for buffer, value in stores)))

    def sums(vector: int) -> tuple[Expr, Expr]:
        at = (vector, Dim.of(LANE))
        return Load(within, at), Load(before, at)

    def added(vector: int) -> Statement:
        column = (part.position * vectors + vector) * LANES + Dim.of(LANE)
        inside = (columns - 1 - column,)
        here, earlier = sums(vector)
        value = scalar.cast(scalar.guarded(inside, k.element(x, (row, column), None)), dtype)
        return block(
            lanes(
                vector,
                (within, scalar.select(goes_on, here, zero) + value),
                (before, scalar.select(goes_on, earlier, zero)),
            ),
            _lanes(k.store((row, column), scalar.cast(here + earlier, x.dtype), inside)),
        )

    every = range(vectors)
    begin = block(*(lanes(v, (within, zero), (before, zero)) for v in every))
    next_chunk = block(
        *(lanes(v, (before, sums(v)[0] + sums(v)[1]), (within, zero)) for v in every)
    )
    body = loop(
        chunk,
        chunks,
        block(next_chunk, loop(place, length, block(*(added(v) for v in every)))),
    )
    whole = Allocate(within, Allocate(before, block(begin, body)))
    return over_items([part], item, whole)


def _lanes(body: Statement) -> Statement:
    return loop(LANE, LANES, body, Kind.VECTOR)


SCHEDULES: Final[Mapping[str, Schedule]] = {"run_sum": _run_sum}
