"""Loops of scatter, scatter_last and scatter_source: a work item holds whole lines along the axis. It
makes them as they are without updates, and then takes one update after the other.

So equal indices keep their order, no two items write one element, and the work grows with the
elements and the updates, not with their pairs. An item stores an element again, or reads what it has
stored, so there is no epilogue (passes/fuse.py sees to it). Where lines that lie beside each other
have the same index, an update of all of them is taken in vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Value
from ..scalar import Checked, Expr, Index
from ..tensor_type import INT64
from .elements import Elements
from .ir import (
    LANE,
    LANES,
    Kind,
    Load,
    Statement,
    Store,
    block,
    extents_in,
    guard,
    loop,
    variable,
)
from .lines import Lines, Place
from .plan import Machine
from .tiles import Schedule

COLUMNS: Final = 512  # lines that lie beside each other in memory, of one work item


def _scatter(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    x, indices, updates = k.anchored.inputs
    assert k.anchor is not None
    reduction = k.anchor.attrs.reduction

    def changed(to: Place, update: Place, _number: Extent) -> Expr:
        return scalar.call(reduction, Load(k.out, to), k.element(updates, update, None))

    return _over_lines(k, indices, item, lambda at: k.element(x, at, None), changed)


def _scatter_last(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    x, indices, updates = k.anchored.inputs
    return _over_lines(
        k, indices, item, lambda at: k.element(x, at, None),
        lambda _to, update, _number: k.element(updates, update, None),
    )  # fmt: skip


def _scatter_source(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    (indices,) = k.anchored.inputs
    none = scalar.literal(-1, INT64)
    return _over_lines(
        k, indices, item, lambda _at: none, lambda _to, _update, number: Index(number)
    )


def _over_lines(
    k: Elements,
    indices: Value,
    item: Symbol,
    start: Callable[[Place], Expr],
    changed: Callable[[Place, Place, Extent], Expr],
) -> tuple[Extent, Statement]:
    """(work items, the body of one): ``start`` is an element without updates, ``changed`` what it
    becomes at a place by the update at another, which has a number along the axis."""
    lines = Lines(k.anchored.output.shape, k.anchored.attrs.axis, COLUMNS)
    extent, count = lines.extent, indices.shape[lines.axis]

    def made(entry: Extent, column: Extent) -> Statement:
        place = lines.at(entry, column)
        return Store(k.out, place, start(place))

    def begun() -> Statement:
        if lines.is_last:
            vector = variable("v", dim.ceil_div(extent, LANES))
            here: Extent = Dim.of(vector) * LANES + Dim.of(LANE)
            stored = guard((extent - 1 - here,), made(here, 0))
            return loop(vector, dim.ceil_div(extent, LANES), loop(LANE, LANES, stored, Kind.VECTOR))
        entry = variable("i", extent)

        return loop(entry, extent, lines.over_columns(lambda here: made(Dim.of(entry), here)))

    number, column = variable("r", count), variable("c", lines.columns)

    def index(beside: Extent) -> Expr:
        return scalar.cast(k.element(indices, lines.at(Dim.of(number), beside), None), INT64)

    def put(beside: Extent) -> Statement:
        to = lines.at(Checked(index(beside), extent), beside)
        update = lines.at(Dim.of(number), beside)
        return Store(k.out, to, changed(to, update, Dim.of(number)))

    alone = lines.first + Dim.of(column)
    if lines.is_last or column in _symbols_of(index(alone)):
        taken = loop(column, lines.columns, put(alone))
    else:
        taken = lines.over_columns(put)
    return lines.items(item, block(begun(), loop(number, count, taken)))


def _symbols_of(root: Expr) -> frozenset[Symbol]:
    return dim.symbols_of([e for node in scalar.post_order([root]) for e in extents_in(node)])


SCHEDULES: Final[Mapping[str, Schedule]] = {
    "scatter": _scatter, "scatter_last": _scatter_last, "scatter_source": _scatter_source,
}  # fmt: skip
