"""Loops of scatter and scatter_source: a work item holds whole lines along the axis. It makes them
as they are without updates, and then takes one update after the other.

So equal indices keep their order, no two items write one element, and the work grows with the
elements and the updates, not with their pairs. An item reads again what it has stored, so there is
no epilogue (passes/fuse.py sees to it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Value
from ..scalar import Checked, Expr, Index
from ..tensor_type import INT64
from .elements import Axis, Elements
from .ir import LANE, LANES, Kind, Load, Statement, Store, block, guard, loop, variable
from .numbering import over_items
from .plan import Machine
from .tiles import Schedule

COLUMNS: Final = 64  # lines that lie beside each other in memory, of one work item

Place: TypeAlias = "tuple[Extent | Expr, ...]"


def _scatter(k: Elements, _machine: Machine, item: Symbol) -> tuple[Extent, Statement]:
    """(work items, the body of one)"""
    x, indices, updates = k.anchored.inputs
    assert k.anchor is not None
    reduction = k.anchor.attrs.reduction

    def changed(to: Place, update: Place, _number: Extent) -> Expr:
        return scalar.call(reduction, Load(k.out, to), k.element(updates, update, None))

    return _over_lines(k, indices, item, lambda at: k.element(x, at, None), changed)


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
    assert k.anchor is not None
    axis, shape = k.anchor.attrs.axis, k.anchored.output.shape
    extent, count = shape[axis], indices.shape[axis]
    axes = [Axis.of(f"p{place}", size) for place, size in enumerate(shape) if place != axis]
    width: Extent = 1
    if axis + 1 < len(shape):  # the lines that are neighbours go on together
        width = shape[-1]
        axes[-1] = Axis.of(f"p{len(shape) - 1}c", dim.ceil_div(width, COLUMNS))
    before, behind = axes[:axis], axes[axis:]

    def at(entry: Extent | Expr, column: Extent) -> Place:
        """The place of an entry of the line at a column."""
        outer = [axis.position for axis in before]
        inner = [axis.position for axis in behind[:-1]]
        return (*outer, entry, *inner, *([column] if behind else []))

    first: Extent = behind[-1].position * COLUMNS if behind else 0
    columns = dim.minimum(COLUMNS, width - first)

    def begun() -> Statement:
        if not behind:
            vector = variable("v", dim.ceil_div(extent, LANES))
            here: Extent = Dim.of(vector) * LANES + Dim.of(LANE)
            stored = guard((extent - 1 - here,), Store(k.out, at(here, 0), start(at(here, 0))))
            return loop(vector, dim.ceil_div(extent, LANES), loop(LANE, LANES, stored, Kind.VECTOR))
        entry, vector = variable("i", extent), variable("v", dim.ceil_div(columns, LANES))
        here = first + Dim.of(vector) * LANES + Dim.of(LANE)
        place = at(Dim.of(entry), here)
        stored = guard((width - 1 - here,), Store(k.out, place, start(place)))
        lanes = loop(LANE, LANES, stored, Kind.VECTOR)
        return loop(entry, extent, loop(vector, dim.ceil_div(columns, LANES), lanes))

    number, column = variable("r", count), variable("c", columns)
    beside = first + Dim.of(column)
    update = at(Dim.of(number), beside)
    found = Checked(scalar.cast(k.element(indices, update, None), INT64), extent)
    to = at(found, beside)
    taken = loop(column, columns, Store(k.out, to, changed(to, update, Dim.of(number))))
    return over_items(axes, item, block(begun(), loop(number, count, taken)))


SCHEDULES: Final[Mapping[str, Schedule]] = {
    "scatter": _scatter, "scatter_source": _scatter_source,
}  # fmt: skip
