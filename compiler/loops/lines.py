"""Lines along an axis as work items: an item has one line along the last axis, or some that lie beside
each other in memory along another one, which go on together in vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, overload

from .. import dim
from ..dim import Dim, Extent, Symbol
from ..scalar import Expr
from .elements import Axis
from .ir import LANE, LANES, Kind, Statement, guard, loop, variable
from .numbering import over_items

Place: TypeAlias = "tuple[Extent | Expr, ...]"


@dataclass(frozen=True)
class Lines:
    """The lines of a shape along an axis; ``most`` of them beside each other are an item's."""

    shape: tuple[Extent, ...]
    axis: int
    most: int

    @property
    def extent(self) -> Extent:
        """Of a line."""
        return self.shape[self.axis]

    @property
    def is_last(self) -> bool:
        """Whether a line lies in memory as one: an item then has no other."""
        return self.axis == len(self.shape) - 1

    @cached_property
    def axes(self) -> Sequence[Axis]:
        """Those of the items."""
        axes = [Axis.of(f"p{k}", size) for k, size in enumerate(self.shape) if k != self.axis]
        if not self.is_last:
            last = len(self.shape) - 1
            axes[-1] = Axis.of(f"p{last}c", dim.ceil_div(self.shape[-1], self.most))
        return axes

    @property
    def first(self) -> Extent:
        """The column of an item's first line."""
        return 0 if self.is_last else self.axes[-1].position * self.most

    @property
    def columns(self) -> Extent:
        """How many lines an item has."""
        return 1 if self.is_last else dim.minimum(self.most, self.shape[-1] - self.first)

    @overload
    def at(self, entry: Extent, column: Extent) -> tuple[Extent, ...]: ...

    @overload
    def at(self, entry: Extent | Expr, column: Extent) -> Place: ...

    def at(self, entry: Extent | Expr, column: Extent) -> Place:
        """The place of an entry of the line at a column."""
        positions = [axis.position for axis in self.axes]
        if self.is_last:
            return (*positions, entry)
        return (*positions[: self.axis], entry, *positions[self.axis : -1], column)

    def over_columns(self, body: Callable[[Extent], Statement]) -> Statement:
        """What is done for vectors of an item's lines, at the columns of the lanes that have one."""
        vector = variable("v", dim.ceil_div(self.columns, LANES))
        here = self.first + Dim.of(vector) * LANES + Dim.of(LANE)
        lanes = loop(LANE, LANES, guard((self.shape[-1] - 1 - here,), body(here)), Kind.VECTOR)
        return loop(vector, dim.ceil_div(self.columns, LANES), lanes)

    def items(self, item: Symbol, body: Statement) -> tuple[Extent, Statement]:
        """(work items, what one does)"""
        return over_items(self.axes, item, body)


__all__ = ["Lines", "Place"]
