"""A row kernel's passes -> loops whose lanes lie along a row ("inner-loop vectorization"): one pass
after another while the row is in the cache or in registers.

A pass keeps several vectors of sums, so that additions do not wait for each other, and adds long
rows up in chunks: no chain of float additions is longer than ``plan.CHAIN`` terms. An element
that is kept for later passes lies in the output's row, which is written anyway, or, of rows of few
vectors, in registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Node
from ..scalar import Expr
from . import items, plan
from .elements import accumulated_in, neutral_of
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
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
from .numbering import over_items
from .row_form import RowForm, decoded
from .row_passes import Pass, Passes
from .row_vectors import (
    RowLoops,
    Spot,
    Vector,
    each_unit,
    merged_from,
    segments,
    vector_loop,
    vectors_of,
)
from .unrolling import copies_of

SUMS = 4  # vectors of sums at a time
# The same in the first pass, which waits for memory: where loads run far ahead of it, those of a row
# are all under way before the prefetchers of a CPU see them, and no later ones are.
FIRST_SUMS = 2
SYMBOLIC_ROWS = 8  # of a work item whose rows have any length


class RowAlongLanes(RowLoops):
    """Loops over rows, one after another. ``is_short``: a row stays in registers."""

    def __init__(self, form: RowForm, passes: Passes, is_short: bool = False) -> None:
        super().__init__(form, passes)
        self.is_short = is_short

    def keeps_in(self, step: Pass) -> Buffer:
        if not self.is_short:
            return self.flat.get(self.elements.out, self.elements.out)
        assert isinstance(step.makes, Node)
        return self.local("h", step.makes.inputs[0].dtype, (vectors_of(self.form.length), LANES))

    def kept_at(self, spot: Spot) -> tuple[Extent, ...]:
        return (spot.vector, Dim.of(LANE)) if self.is_short else self.stored_at(spot)[1]

    def loops(self, item: Symbol) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
        """(work items, body, the buffers as they are walked)"""
        if self.by_axes:
            return *self._axis_loops(item), self.flat
        count, length = self.form.count, self.form.length
        rows = (
            max(1, items.ITEM_WORK // max(length, 1)) if isinstance(length, int) else SYMBOLIC_ROWS
        )
        rows = min(rows, count) if isinstance(count, int) else rows
        number, own = variable("q", count), dim.minimum(rows, count - Dim.of(item) * rows)
        inside = variable("k", own)
        body = Let(number, Dim.of(item) * rows + Dim.of(inside), self.row(Dim.of(number)))
        return dim.ceil_div(count, rows), loop(inside, own, body), self.flat

    def _axis_loops(self, item: Symbol) -> tuple[Extent, Statement]:
        """(work items, the body of one) over the axes of the rows: one free axis numbers items, the
        last one where there would be few otherwise, for a batch is often 1."""
        free = [axis for axis in self.form.pure if isinstance(axis.extent, Dim)]
        known = prod(axis.extent for axis in self.form.pure if isinstance(axis.extent, int))
        swept = free[1:] if known >= plan.LEAST_ITEMS else free[:-1]
        body = self.row(0)
        for axis in reversed(swept):
            body = loop(axis.symbol, axis.extent, body)
        return over_items([axis for axis in self.form.pure if axis not in swept], item, body)

    def reduced(
        self, step: Pass, node: Node, result: Buffer, row: Extent, conditions: tuple[Extent, ...]
    ) -> Statement:
        compute = self.elements.computes[node]
        dtype = accumulated_in(node.output.dtype)
        units = self.units(step.root)
        total = self.local("t", dtype, (units, LANES))
        made = None if step.keeps is None else self.made_in(step.root, units)
        has_any_length = compute.combine != "add" or not dtype.is_float
        if has_any_length or self.chain(step.root, units) <= plan.CHAIN:
            sums = self.sweep(step.root, row, units, self.adder(step, node, total, made), ())
        else:
            sums = self._in_chunks(step, node, total, row, made)
        sums = sums if made is None else Allocate(made, sums)
        return Allocate(
            total, block(self.clear(total, node), sums, self.folded(total, node, result))
        )

    def folded(self, total: Buffer, node: Node, result: Buffer) -> Statement:
        """Combines all vectors of sums, then their lanes."""
        combine, units = self.elements.computes[node].combine, total.shape[0]
        assert isinstance(units, int)
        every: list[Expr] = [Load(total, (unit, Dim.of(LANE))) for unit in range(units)]
        while len(every) > 1:
            half = len(every) // 2
            pairs = zip(every[:half], every[half : 2 * half], strict=True)
            every = [scalar.call(combine, *pair) for pair in pairs] + every[2 * half :]
        fold = [vector_loop(Store(total, (0, Dim.of(LANE)), every[0]))] if units > 1 else []
        value = scalar.cast(LaneFold(total, (0,), combine), node.output.dtype)
        return block(*fold, Store(result, (0,), value))

    def units(self, root: Expr) -> int:
        """How many vectors of sums are kept."""
        length = self.segment(root)
        most = FIRST_SUMS if root is self.passes.steps[0].root else SUMS
        return min(most, max(1, length // LANES)) if isinstance(length, int) else most

    def copies(self, root: Expr) -> int:
        return min(copies_of(root), self.units(root))

    def segment(self, root: Expr) -> Extent:
        """How many elements of a row lie behind each other for what is computed of them."""
        return dim.product(
            [axis.extent for axis in self.form.reduced[merged_from(self.form, root) :]]
        )

    def chain(self, root: Expr, units: int) -> int:
        """The most terms that one lane adds up; more than CHAIN if that is not known."""
        length = self.form.length
        if not isinstance(length, int):
            return plan.CHAIN + 1
        segment = self.segment(root)
        assert isinstance(segment, int)
        vectors = segment // LANES
        return (
            length // segment * (vectors // units + (vectors % units > 0) + (segment % LANES > 0))
        )

    def adder(self, step: Pass, node: Node, total: Buffer, made: Buffer | None) -> Vector:
        def add(spot: Spot) -> tuple[Statement, ...]:
            at = (spot.unit, Dim.of(LANE))
            make, value = self.early(step.root, spot, made)
            keep, term = self.term(step, spot, total.dtype, value)
            sum_ = self.added(node, term, Load(total, at), spot.conditions)
            return *make, vector_loop(*keep, Store(total, at, sum_))

        return add

    def stored(self, root: Expr, row: Extent, conditions: tuple[Extent, ...]) -> Statement:
        copies = self.copies(root)
        made = self.made_in(root, copies if self.form.is_row else 1)
        if made is None:
            return super().stored(root, row, conditions)

        def store(spot: Spot) -> tuple[Statement, ...]:
            make, value = self.early(root, spot, made)
            write = Store(*self.stored_at(spot), value or self.placed(root, spot))
            return *make, vector_loop(guard(spot.conditions, write))

        return Allocate(made, self.sweep(root, row, copies, store, conditions))

    def made_in(self, root: Expr, units: int) -> Buffer | None:
        """What the vectors of an iteration are made in before the first of them is stored: a CPU
        may take a load for one of what was just stored 4096 bytes away, and wait. None, where
        vectors are made one at a time.
        """
        is_single = self.is_short or units == 1
        return None if is_single else self.local("e", root.dtype, (units, LANES))

    def early(
        self, root: Expr, spot: Spot, made: Buffer | None
    ) -> tuple[tuple[Statement, ...], Expr | None]:
        """(what makes a vector of elements, the elements), if that is done before they are
        stored.
        """
        if made is None or spot.conditions:
            return (), None
        place = (spot.unit, Dim.of(LANE))
        return (vector_loop(Store(made, place, self.placed(root, spot))),), Load(made, place)

    def clear(self, total: Buffer, node: Node) -> Statement:
        compute = self.elements.computes[node]
        neutral = scalar.literal(neutral_of(compute, total.dtype), total.dtype)
        return each_unit(total, lambda at: Store(total, at, neutral))

    def _in_chunks(
        self, step: Pass, node: Node, total: Buffer, row: Extent, made: Buffer | None
    ) -> Statement:
        """Adds up partial sums of as many terms as a chain may have."""
        compute = self.elements.computes[node]
        partial = self.local("a", total.dtype, total.shape)  # type: ignore[arg-type]

        def merged(at: tuple[Extent, ...]) -> Statement:
            return Store(
                total, at, scalar.call(compute.combine, Load(total, at), Load(partial, at))
            )

        def part(sums: Statement) -> Statement:
            return block(self.clear(partial, node), sums, each_unit(total, merged))

        units = total.shape[0]
        assert isinstance(units, int)
        chunk = max(plan.CHAIN // 2, 1) * units * LANES
        add = self.adder(step, node, partial, made)
        return Allocate(partial, self.swept(step.root, row, units, add, chunk, part))

    def sweep(
        self, root: Expr, row: Extent, units: int, make: Vector, conditions: tuple[Extent, ...]
    ) -> Statement:
        if not self.is_short:
            return self.swept(root, row, units, make, None, lambda sums: sums)
        known = self.decoded(row)
        statements: list[Statement] = []
        for vector in range(vectors_of(self.form.length)):
            at = Dim.of(LANE) + vector * LANES
            inside = dim.unproved([self.form.length - 1 - at])
            positions = {**known, **decoded(self.form.reduced, at)}
            statements += make(Spot(row, at, positions, vector % units, vector, inside))
        return block(*statements)

    def swept(
        self,
        root: Expr,
        row: Extent,
        units: int,
        make: Vector,
        chunk: int | None,
        part: Callable[[Statement], Statement],
    ) -> Statement:
        """A statement for every vector of a row, the parts of a chunk within ``part``."""
        first = merged_from(self.form, root)
        outer, inner = self.form.reduced[:first], self.form.reduced[first:]
        length = dim.product([axis.extent for axis in inner])
        before: Extent = 0
        for axis in outer:
            before = before * axis.extent + axis.position
        known = {**self.decoded(row), **{axis.symbol: axis.position for axis in outer}}

        def made(
            at: Extent, unit: Extent, vector: Extent, conditions: tuple[Extent, ...]
        ) -> tuple[Statement, ...]:
            positions = (
                {**known, **decoded(inner, at)}
                if len(inner) > 1
                else {**known, inner[0].symbol: at}
            )
            return make(Spot(row, before * length + at, positions, unit, vector, conditions))

        if chunk is None:
            body = segments(0, length, units, made)
        else:
            number, whole = variable("c", length // chunk), length // chunk
            parts: list[Statement] = []
            if whole != 0:
                parts.append(
                    loop(number, whole, part(segments(Dim.of(number) * chunk, chunk, units, made)))
                )
            if length % chunk != 0:
                parts.append(part(segments(whole * chunk, length % chunk, units, made)))
            body = block(*parts)
        for axis in reversed(outer):
            body = loop(axis.symbol, axis.extent, body)
        return body


__all__ = ["RowAlongLanes"]
