"""Row kernels -> loops: a work item makes some rows, one reduction after another while a row is in the cache, then its results.

Each reduction is one pass over the row and the result is another. ``passes`` (row_passes.py) says what each computes and what it keeps
for later ones. There are three ways to place a row on lanes:

- ``_Along``: lanes along the row, several vectors of sums at a time; what is kept lies in the output's row, which is in the cache
  and written anyway. Rows of few vectors are unrolled, and what is kept of them stays in registers.
- ``_Across``: rows shorter than a vector: a lane has a row of its own.

The order of every sum depends on shapes only, and no chain of float additions is longer than ``tiling.CHAIN`` terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Node, Value
from ..scalar import Call, Expr, Index
from ..tensor_type import DType
from . import tiling
from .elements import Axis, accumulated_in, neutral_of, widened
from .ir import LANE, LANES, Allocate, Buffer, Kind, LaneFold, Let, Load, Statement, Store, block, guard, loop, variable
from .row_form import RowForm, decoded
from .row_passes import Keep, Pass, Passes, row_passes
from .strides import takes_apart

ACROSS = 8  # the longest rows that have one lane each: half a vector would be idle in longer ones at most
SHORT = 4  # vectors of a row that stays in registers
SUMS = 4  # vectors of sums at a time, so that additions do not wait for each other
SYMBOLIC_ROWS = 8  # of a work item whose rows have any length
Vector: TypeAlias = "Callable[[_Spot], Statement]"


def row_loops(form: RowForm, item: Symbol) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
    """(work items, body, the buffers as they are walked) of a row kernel."""
    length = form.length
    if isinstance(length, int) and length <= ACROSS and not (isinstance(form.count, int) and form.count < LANES):
        return _Across(form, row_passes(form, Keep.ALL)).loops(item)
    if isinstance(length, int) and length <= SHORT * LANES:
        passes = row_passes(form, Keep.COMPUTED)
        if all(_merged_from(form, root) == 0 for root in passes.roots):
            return _Along(form, passes, is_short=True).loops(item)
    keep = Keep.ONE if isinstance(length, int) and form.is_row else Keep.NOTHING
    return _Along(form, row_passes(form, keep)).loops(item)


@dataclass(frozen=True)
class _Spot:
    """Where a vector of elements lies: the number of each row and the place in it, by base axes too; which of several sums
    takes it, and which vector of the row it is, where that is known; lanes count where ``conditions`` hold."""

    row: Extent
    at: Extent
    positions: Mapping[Symbol, Extent]
    unit: Extent = 0
    vector: Extent = 0
    conditions: tuple[Extent, ...] = ()


class _Rows:
    """What both ways have in common. ``scalars``: what a row's numbers are kept in; ``kept``: elements of rows."""

    at_scalar: tuple[Extent, ...] = (0,)
    scalar_shape: tuple[int, ...] = (1,)

    def __init__(self, form: RowForm, passes: Passes) -> None:
        self.form, self.passes, self.elements = form, passes, form.elements
        self.flat = _views(form, passes)
        self.scalars: dict[Buffer, Buffer] = {}
        self.kept: dict[Buffer, Buffer] = {}

    # -- a row -------------------------------------------------------------------------------------------

    def row(self, row: Extent, conditions: tuple[Extent, ...] = ()) -> Statement:
        """All passes over a row (or the rows of all lanes)."""
        locals_: list[Buffer] = []
        statements: list[Statement] = []
        for step in self.passes.steps:
            if step.keeps is not None:
                local = self.keeps_in(step)
                self.kept[step.keeps] = local
                locals_ += [local] if local.is_local else []
            match step.makes:
                case Node() as node:
                    found = self._local("s", node.output.dtype, self.scalar_shape)
                    statements.append(self.reduced(step, node, found, row, conditions))
                case Value() as value:
                    found = self._local("s", value.dtype, self.scalar_shape)
                    statements.append(self.of_row(Store(found, self.at_scalar, self.placed(step.root, self.spot(row, conditions)))))
                case None:
                    statements.append(self.stored(step.root, row, conditions))
                    continue
            self.scalars[step.leaf] = found
            locals_.append(found)
        body = block(*statements)
        for local in reversed(locals_):
            body = Allocate(local, body)
        return body

    def stored(self, root: Expr, row: Extent, conditions: tuple[Extent, ...]) -> Statement:
        """The last pass: the result's elements, or its number of the row."""
        out = self.flat.get(self.elements.out, self.elements.out)
        if not self.form.is_row:
            spot = self.spot(row, conditions)
            return self.of_row(guard(conditions, Store(out, (row,), self.placed(root, spot))))

        def store(spot: _Spot) -> Statement:
            return _vector(guard(spot.conditions, Store(out, (spot.row, spot.at), self.placed(root, spot))))

        return self.sweep(root, row, 1, store, conditions)

    # -- what the ways differ in -------------------------------------------------------------------------

    def spot(self, row: Extent, conditions: tuple[Extent, ...]) -> _Spot:
        """A row without a place in it."""
        return _Spot(row, 0, self._decoded(row), conditions=conditions)

    def of_row(self, statement: Statement) -> Statement:
        """A statement for a row."""
        return statement

    def keeps_in(self, step: Pass) -> Buffer:
        raise NotImplementedError

    def kept_at(self, spot: _Spot) -> tuple[Extent, ...]:
        raise NotImplementedError

    def reduced(self, step: Pass, node: Node, result: Buffer, row: Extent, conditions: tuple[Extent, ...]) -> Statement:
        raise NotImplementedError

    def sweep(self, root: Expr, row: Extent, units: int, make: Vector, conditions: tuple[Extent, ...]) -> Statement:
        raise NotImplementedError

    # -- parts -------------------------------------------------------------------------------------------

    def _local(self, letter: str, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        return Buffer(self.elements.local_name(letter), dtype, shape, is_local=True)

    def _decoded(self, row: Extent) -> Mapping[Symbol, Extent]:
        """The base axes of a row, where they follow from its number; nothing reads them otherwise."""
        pure = self.form.pure
        return decoded(pure, row) if all(isinstance(axis.extent, int) for axis in pure[1:]) else {}

    def placed(self, root: Expr, spot: _Spot) -> Expr:
        """An expression over base axes at a spot."""

        def leaf(node: Expr) -> Expr | None:
            match node:
                case Load(buffer) if buffer in self.scalars:
                    return Load(self.scalars[buffer], self.at_scalar)
                case Load(buffer) if buffer in self.kept:
                    return Load(self.kept[buffer], self.kept_at(spot))
                case Load():
                    return self.read(node, spot)
                case Index(extent):
                    return Index(dim.substitute(extent, spot.positions))
            return None

        return scalar.rebuild(root, leaf)

    def read(self, load: Load, spot: _Spot) -> Expr:
        """A load from memory at a spot."""
        buffer = self.flat.get(load.buffer, load.buffer)
        if self.form.is_dense(load):
            index: tuple[Extent, ...] = (spot.row, spot.at)
            offset = spot.row * self.form.length + spot.at
        elif self.form.is_of_row(load):
            index, offset = (spot.row,), spot.row
        else:
            index = tuple(dim.substitute(part, spot.positions) for part in load.extents)
            offset = dim.substitute(load.buffer.offset(load.extents), spot.positions)
        is_walked = buffer is not load.buffer and len(buffer.shape) == 1
        return Load(buffer, (offset,) if is_walked else index)

    def added(self, node: Node, term: Expr, present: Expr, conditions: tuple[Extent, ...]) -> Expr:
        """A term combined with what is there, if the conditions hold; a product of floats by one rounding."""
        compute = self.elements.computes[node]
        match term:
            case Call("mul", (left, right), dtype) if compute.combine == "add" and dtype.is_float:
                return scalar.call("fma", scalar.guarded(conditions, left), scalar.guarded(conditions, right), present)
        counted = scalar.guarded(conditions, term, scalar.literal(neutral_of(compute, term.dtype), term.dtype))
        return scalar.call(compute.combine, present, counted)

    def term(self, step: Pass, spot: _Spot, dtype: DType) -> tuple[tuple[Statement, ...], Expr]:
        """(what keeps the element, the element as it is added up)"""
        value = self.placed(step.root, spot)
        if step.keeps is None:
            return (), widened(value, dtype)
        place, at = self.kept[step.keeps], self.kept_at(spot)
        if place.is_local:
            keep: Statement = Store(place, at, scalar.guarded(spot.conditions, value))
        else:
            keep = guard(spot.conditions, Store(place, at, value))
        return (keep,), widened(Load(place, at), dtype)


class _Along(_Rows):
    """Lanes along a row. ``is_short``: it stays in registers."""

    def __init__(self, form: RowForm, passes: Passes, is_short: bool = False) -> None:
        super().__init__(form, passes)
        self.is_short = is_short

    def keeps_in(self, step: Pass) -> Buffer:
        if not self.is_short:
            return self.flat[self.elements.out]
        assert isinstance(step.makes, Node)
        return self._local("h", step.makes.inputs[0].dtype, (_vectors(self.form.length), LANES))

    def kept_at(self, spot: _Spot) -> tuple[Extent, ...]:
        return (spot.vector, Dim.of(LANE)) if self.is_short else (spot.row, spot.at)

    def loops(self, item: Symbol) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
        """(work items, body, the buffers as they are walked)"""
        count, length = self.form.count, self.form.length
        rows = max(1, tiling.ITEM_WORK // max(length, 1)) if isinstance(length, int) else SYMBOLIC_ROWS
        rows = min(rows, count) if isinstance(count, int) else rows
        number, own = variable("q", count), dim.minimum(rows, count - Dim.of(item) * rows)
        inside = variable("k", own)
        body = Let(number, Dim.of(item) * rows + Dim.of(inside), self.row(Dim.of(number)))
        return dim.ceil_div(count, rows), loop(inside, own, body), self.flat

    def reduced(self, step: Pass, node: Node, result: Buffer, row: Extent, conditions: tuple[Extent, ...]) -> Statement:
        compute = self.elements.computes[node]
        dtype = accumulated_in(node.output.dtype)
        units = self.units(step.root)
        total = self._local("t", dtype, (units, LANES))
        has_any_length = compute.combine != "add" or not dtype.is_float
        if has_any_length or self.chain(step.root, units) <= tiling.CHAIN:
            sums = self.sweep(step.root, row, units, self._adder(step, node, total), ())
        else:
            sums = self._in_chunks(step, node, total, row)
        first = (0, Dim.of(LANE))
        every: list[Expr] = [Load(total, (unit, Dim.of(LANE))) for unit in range(units)]
        while len(every) > 1:
            half = len(every) // 2
            pairs = zip(every[:half], every[half : 2 * half], strict=True)
            every = [scalar.call(compute.combine, *pair) for pair in pairs] + every[2 * half :]
        fold = [_vector(Store(total, first, every[0]))] if units > 1 else []
        value = scalar.cast(LaneFold(total, (0,), compute.combine), node.output.dtype)
        return Allocate(total, block(self._clear(total, node), sums, *fold, Store(result, (0,), value)))

    def units(self, root: Expr) -> int:
        """How many vectors of sums are kept."""
        length = self.segment(root)
        return min(SUMS, max(1, length // LANES)) if isinstance(length, int) else SUMS

    def segment(self, root: Expr) -> Extent:
        """How many elements of a row lie behind each other for what is computed of them."""
        return dim.product([axis.extent for axis in self.form.reduced[_merged_from(self.form, root) :]])

    def chain(self, root: Expr, units: int) -> int:
        """The most terms that one lane adds up; more than CHAIN if that is not known."""
        length = self.form.length
        if not isinstance(length, int):
            return tiling.CHAIN + 1
        segment = self.segment(root)
        assert isinstance(segment, int)
        vectors = segment // LANES
        return length // segment * (vectors // units + (vectors % units > 0) + (segment % LANES > 0))

    def _adder(self, step: Pass, node: Node, total: Buffer) -> Vector:
        def add(spot: _Spot) -> Statement:
            keep, term = self.term(step, spot, total.dtype)
            at = (spot.unit, Dim.of(LANE))
            return _vector(*keep, Store(total, at, self.added(node, term, Load(total, at), spot.conditions)))

        return add

    def _clear(self, total: Buffer, node: Node) -> Statement:
        compute = self.elements.computes[node]
        neutral = scalar.literal(neutral_of(compute, total.dtype), total.dtype)
        return _each_unit(total, lambda at: Store(total, at, neutral))

    def _in_chunks(self, step: Pass, node: Node, total: Buffer, row: Extent) -> Statement:
        """Adds up partial sums of as many terms as a chain may have."""
        compute = self.elements.computes[node]
        partial = self._local("a", total.dtype, total.shape)  # type: ignore[arg-type]

        def merged(at: tuple[Extent, ...]) -> Statement:
            return Store(total, at, scalar.call(compute.combine, Load(total, at), Load(partial, at)))

        def part(sums: Statement) -> Statement:
            return block(self._clear(partial, node), sums, _each_unit(total, merged))

        units = total.shape[0]
        assert isinstance(units, int)
        chunk = max(tiling.CHAIN // 2, 1) * units * LANES
        return Allocate(partial, self.swept(step.root, row, units, self._adder(step, node, partial), chunk, part))

    def sweep(self, root: Expr, row: Extent, units: int, make: Vector, conditions: tuple[Extent, ...]) -> Statement:
        if not self.is_short:
            return self.swept(root, row, units, make, None, lambda sums: sums)
        known = self._decoded(row)
        statements = []
        for vector in range(_vectors(self.form.length)):
            at = Dim.of(LANE) + vector * LANES
            inside = dim.unproved([self.form.length - 1 - at])
            positions = {**known, **decoded(self.form.reduced, at)}
            statements.append(make(_Spot(row, at, positions, vector % units, vector, inside)))
        return block(*statements)

    def swept(
        self, root: Expr, row: Extent, units: int, make: Vector, chunk: int | None, part: Callable[[Statement], Statement]
    ) -> Statement:
        """A statement for every vector of a row, the parts of a chunk within ``part``."""
        first = _merged_from(self.form, root)
        outer, inner = self.form.reduced[:first], self.form.reduced[first:]
        length = dim.product([axis.extent for axis in inner])
        before: Extent = 0
        for axis in outer:
            before = before * axis.extent + axis.position
        known = {**self._decoded(row), **{axis.symbol: axis.position for axis in outer}}

        def made(at: Extent, unit: Extent, vector: Extent, conditions: tuple[Extent, ...]) -> Statement:
            positions = {**known, **decoded(inner, at)} if len(inner) > 1 else {**known, inner[0].symbol: at}
            return make(_Spot(row, before * length + at, positions, unit, vector, conditions))

        if chunk is None:
            body = _segment(0, length, units, made)
        else:
            number, whole = variable("c", length // chunk), length // chunk
            parts: list[Statement] = []
            if whole != 0:
                parts.append(loop(number, whole, part(_segment(Dim.of(number) * chunk, chunk, units, made))))
            if length % chunk != 0:
                parts.append(part(_segment(whole * chunk, length % chunk, units, made)))
            body = block(*parts)
        for axis in reversed(outer):
            body = loop(axis.symbol, axis.extent, body)
        return body


class _Across(_Rows):
    """Each lane has a row of its own: all it takes stays in registers."""

    at_scalar = (Dim.of(LANE),)
    scalar_shape = (LANES,)

    def loops(self, item: Symbol) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
        """(work items, body, the buffers as they are walked)"""
        count, length = self.form.count, self.form.length
        assert isinstance(length, int)
        groups = max(1, tiling.ITEM_WORK // (length * LANES))
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
        return _vector(statement)

    def keeps_in(self, step: Pass) -> Buffer:
        assert isinstance(step.makes, Node) and isinstance(self.form.length, int)
        return self._local("h", step.makes.inputs[0].dtype, (self.form.length, LANES))

    def kept_at(self, spot: _Spot) -> tuple[Extent, ...]:
        return spot.vector, Dim.of(LANE)

    def read(self, load: Load, spot: _Spot) -> Expr:
        """Lanes behind the last row read nothing; what they hold is never stored."""
        return scalar.guarded(spot.conditions, super().read(load, spot))

    def reduced(self, step: Pass, node: Node, result: Buffer, row: Extent, conditions: tuple[Extent, ...]) -> Statement:
        compute = self.elements.computes[node]
        total = self._local("t", accumulated_in(node.output.dtype), (LANES,))
        at = (Dim.of(LANE),)
        neutral = scalar.literal(neutral_of(compute, total.dtype), total.dtype)

        def add(spot: _Spot) -> Statement:
            keep, term = self.term(step, spot, total.dtype)
            return _vector(*keep, Store(total, at, self.added(node, term, Load(total, at), ())))

        value = scalar.cast(Load(total, at), result.dtype)
        sums = self.sweep(step.root, row, 1, add, conditions)
        return Allocate(total, block(_vector(Store(total, at, neutral)), sums, _vector(Store(result, at, value))))

    def sweep(self, root: Expr, row: Extent, units: int, make: Vector, conditions: tuple[Extent, ...]) -> Statement:
        assert isinstance(self.form.length, int)
        known = self._decoded(row)
        spots = (_Spot(row, place, {**known, **decoded(self.form.reduced, place)}, 0, place, conditions)
                 for place in range(self.form.length))  # fmt: skip
        return block(*map(make, spots))


def _vectors(length: Extent) -> int:
    """How many vectors a row of known length has."""
    assert isinstance(length, int)
    return -(-length // LANES)


def _vector(*statements: Statement) -> Statement:
    return loop(LANE, LANES, block(*statements), Kind.VECTOR)


def _each_unit(buffer: Buffer, make: Callable[[tuple[Extent, ...]], Statement]) -> Statement:
    """A statement for every vector of a buffer."""
    units = buffer.shape[0]
    unit = variable("u", units)
    if units == 1:
        return _vector(make((0, Dim.of(LANE))))
    return loop(unit, units, _vector(make((Dim.of(unit), Dim.of(LANE)))), Kind.UNROLLED)


def _segment(
    start: Extent, length: Extent, units: int,
    make: Callable[[Extent, Extent, Extent, tuple[Extent, ...]], Statement],
) -> Statement:  # fmt: skip
    """A statement for every vector: several at a time, one at a time, and a last one of fewer lanes."""
    lane, full = Dim.of(LANE), length // LANES
    groups, rest = full // units, full % units
    statements: list[Statement] = []
    if groups != 0:
        group, unit = variable("v", groups), variable("u", units)
        at_unit: Extent = Dim.of(unit) if units > 1 else 0
        vector = Dim.of(group) * units + at_unit
        body = make(start + vector * LANES + lane, at_unit, vector, ())
        statements.append(loop(group, groups, loop(unit, units, body, Kind.UNROLLED) if units > 1 else body))
    if rest != 0:
        single = variable("t", rest)
        vector = groups * units + Dim.of(single)
        is_known = isinstance(rest, int)
        body = make(start + vector * LANES + lane, Dim.of(single) if is_known else 0, vector, ())
        statements.append(loop(single, rest, body, Kind.UNROLLED if is_known else Kind.SERIAL))
    if length % LANES != 0:
        conditions = (length - 1 - full * LANES - lane,)
        statements.append(make(start + full * LANES + lane, 0, full, conditions))
    return block(*statements)


def _merged_from(form: RowForm, root: Expr) -> int:
    """The first of the reduced axes that an expression walks as one with all behind it."""
    for first in range(len(form.reduced) - 1):
        inner = form.reduced[first:]
        merged = Axis.of("j", dim.product([axis.extent for axis in inner]))
        if not all(isinstance(axis.extent, int) for axis in inner[1:]):
            continue
        values = decoded(inner, merged.position)
        if not any(takes_apart(dim.substitute(e, values), merged.symbol) for e in _decoded_extents(form, root)):
            return first
    return len(form.reduced) - 1


def _decoded_extents(form: RowForm, root: Expr) -> list[Extent]:
    """What follows from the base axes, and not from the numbers of the row and the element alone."""
    nodes = scalar.post_order([root])
    loads = [n for n in nodes if isinstance(n, Load) and not form.is_dense(n) and not form.is_of_row(n)]
    return [n.buffer.offset(n.extents) for n in loads] + [n.extent for n in nodes if isinstance(n, Index)]


def _views(form: RowForm, passes: Passes) -> Mapping[Buffer, Buffer]:
    """The buffers as rows, or by offsets where some reads are in rows and others are not."""
    loads: dict[Buffer, list[Load]] = {}
    for node in scalar.post_order(list(passes.roots)):
        if isinstance(node, Load) and node.buffer not in passes.leaves:
            loads.setdefault(node.buffer, []).append(node)
    views: dict[Buffer, Buffer] = {}
    rows, numbers = (form.count, form.length), (form.count,)
    for buffer, found in loads.items():
        dense, of_row = ([f(load) for load in found] for f in (form.is_dense, form.is_of_row))
        if any(dense) or any(of_row):
            shape = rows if all(dense) else numbers if all(of_row) else (dim.product(buffer.shape),)
            views[buffer] = Buffer(buffer.name, buffer.dtype, shape)
    out = form.elements.out
    views[out] = Buffer(out.name, out.dtype, rows if form.is_row else numbers)
    return views


__all__ = ["row_loops"]
