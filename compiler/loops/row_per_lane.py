"""A row kernel's passes -> loops in which each lane has a row of its own ("outer-loop
vectorization"), for rows shorter than a vector.

All that a row takes stays in registers. Lanes behind the last row read nothing and store
nothing."""

from __future__ import annotations

from collections.abc import Mapping

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Node
from ..scalar import Expr
from . import items
from .elements import accumulated_in, neutral_of
from .ir import LANE, LANES, Allocate, Buffer, Load, Statement, Store, block, loop, variable
from .row_form import decoded
from .row_passes import Pass
from .row_vectors import RowLoops, Spot, Vector, vector_loop


class RowPerLane(RowLoops):
    """Loops over groups of rows, one for each lane."""

    at_scalar = (Dim.of(LANE),)
    scalar_shape = (LANES,)

    def loops(self, item: Symbol) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
        """(work items, body, the buffers as they are walked)"""
        count, length = self.form.count, self.form.length
        assert isinstance(length, int)
        groups = max(1, items.ITEM_WORK // (length * LANES))
        groups = min(groups, -(-count // LANES)) if isinstance(count, int) else groups
        rows = groups * LANES
        base = Dim.of(item) * rows
        full = dim.minimum(groups, (count - base) // LANES)
        group = variable("k", full)
        body = loop(group, full, self.row(base + Dim.of(group) * LANES + Dim.of(LANE)))
        if not (isinstance(count, int) and count % LANES == 0):
            last = base + full * LANES + Dim.of(LANE)
            body = block(body, self.row(last, (count - 1 - last, base + (rows - 1) - last)))
        return dim.ceil_div(count, rows), body, self.flat

    def of_row(self, statement: Statement) -> Statement:
        return vector_loop(statement)

    def keeps_in(self, step: Pass) -> Buffer:
        assert isinstance(step.makes, Node) and isinstance(self.form.length, int)
        return self.local("h", step.makes.inputs[0].dtype, (self.form.length, LANES))

    def kept_at(self, spot: Spot) -> tuple[Extent, ...]:
        return spot.vector, Dim.of(LANE)

    def read(self, load: Load, spot: Spot) -> Expr:
        """Lanes behind the last row read nothing; what they hold is never stored."""
        return scalar.guarded(spot.conditions, super().read(load, spot))

    def reduced(
        self, step: Pass, node: Node, result: Buffer, row: Extent, conditions: tuple[Extent, ...]
    ) -> Statement:
        compute = self.elements.computes[node]
        total = self.local("t", accumulated_in(node.output.dtype), (LANES,))
        at = (Dim.of(LANE),)
        neutral = scalar.literal(neutral_of(compute, total.dtype), total.dtype)

        def add(spot: Spot) -> tuple[Statement, ...]:
            keep, term = self.term(step, spot, total.dtype)
            sum_ = Store(total, at, self.added(node, term, Load(total, at), ()))
            return (vector_loop(*keep, sum_),)

        value = scalar.cast(Load(total, at), result.dtype)
        sums = self.sweep(step.root, row, 1, add, conditions)
        return Allocate(
            total,
            block(
                vector_loop(Store(total, at, neutral)), sums, vector_loop(Store(result, at, value))
            ),
        )

    def sweep(
        self, root: Expr, row: Extent, units: int, make: Vector, conditions: tuple[Extent, ...]
    ) -> Statement:
        assert isinstance(self.form.length, int)
        known = self.decoded(row)
        place = variable("j", self.form.length)
        at = Dim.of(place)
        spot = Spot(row, at, {**known, **decoded(self.form.reduced, at)}, 0, at, conditions)
        return loop(place, self.form.length, block(*make(spot)))


__all__ = ["RowPerLane"]
