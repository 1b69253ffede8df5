"""The conditions of loads, and those of a term that are the same for a whole tile: they are tested
around its statements, and not for every row and column.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Call, Expr, Guarded, Literal
from .ir import LANE, Load


def tests_lanes(load: Load, conditions: Sequence[Extent]) -> bool:
    """Whether conditions keep every lane inside the buffer of a load, also those behind the end of
    the loops' axis."""
    if load.index_expressions:
        return False
    places = zip(load.extents, load.buffer.shape, strict=True)
    needed = (
        condition
        for place, extent in places
        if LANE in dim.symbols_of([place])
        for condition in dim.inside([place], [extent])
    )
    return set(dim.unproved(map(dim.reduced_condition, needed))) <= set(conditions)


def is_zero(value: Expr) -> bool:
    """Whether a value is the zero that a load gives where it may not read."""
    return isinstance(value, Literal) and value.value == 0 and copysign(1, value.value) > 0


def outer_conditions(value: Expr, units: Sequence[Symbol]) -> list[Dim]:
    """The conditions of a term's guards that are the same for a whole tile: without one of them
    the term adds nothing, for its factor is zero there.
    """
    inside = {LANE, *units}
    match value:
        case Call("fma", (Guarded(conditions, _, otherwise), _, _), _) if is_zero(otherwise):
            return [c for c in conditions if isinstance(c, Dim) and not inside & c.symbols()]
    return []


def without(value: Expr, tested: Sequence[Dim]) -> Expr:
    """A term whose guards leave out conditions that are tested around it."""

    def opened(part: Expr) -> Expr:
        if not isinstance(part, Guarded):
            return part
        left = tuple(c for c in part.conditions if c not in tested)
        return Guarded(left, part.value, part.otherwise) if left else part.value

    match value:
        case Call("fma", (left, right, present)) if tested:
            return scalar.call("fma", opened(left), opened(right), present)
    return value


__all__ = ["is_zero", "outer_conditions", "tests_lanes", "without"]
