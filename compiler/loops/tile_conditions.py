"""The conditions of a term that are the same for a whole tile: they are tested around its statements,
and not for every row and column.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import scalar
from ..dim import Dim, Symbol
from ..scalar import Call, Expr, Guarded
from .ir import LANE


def outer_conditions(value: Expr, units: Sequence[Symbol]) -> list[Dim]:
    """The conditions of a term's guards that are the same for a whole tile: without one of them
    the term adds nothing.
    """
    inside = {LANE, *units}
    match value:
        case Call("fma", (Guarded(conditions), _, _), _):
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


__all__ = ["outer_conditions", "without"]
