"""A row kernel's passes -> statements for vectors of a row's elements: what loops over rows share,
whichever way lanes lie.

A row kernel's expressions are over base axes (row_form.py). A ``Spot`` says where a vector of
elements lies; ``RowLoops.placed`` puts an expression there. Buffers that hold a value for each
element of the rows are walked as (row, place), those with one for each row by its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Node, Value
from ..scalar import Call, Expr, Index
from ..tensor_type import DType
from .elements import Axis, neutral_of, widened
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
    guard,
    loop,
    variable,
)
from .row_form import RowForm, decoded
from .row_passes import Pass, Passes
from .strides import takes_apart

# The statements for a vector; each is run for all vectors of an iteration before the next one is.
Vector: TypeAlias = "Callable[[Spot], tuple[Statement, ...]]"


@dataclass(frozen=True)
class Spot:
    """Where a vector of elements lies: the number of each row and the place in it, by base axes
    too; which of several sums takes it, and which vector of the row it is, where that is known;
    lanes count where ``conditions`` hold."""

    row: Extent
    at: Extent
    positions: Mapping[Symbol, Extent]
    unit: Extent = 0
    vector: Extent = 0
    conditions: tuple[Extent, ...] = ()


class RowLoops:
    """What the two ways of vectorizing share. ``scalars``: what a row's numbers are kept in;
    ``kept``: elements of rows; ``by_axes``: loops bind the axes of the rows, for these do not follow
    from the number of a row where free dims stand between them."""

    at_scalar: tuple[Extent, ...] = (0,)
    scalar_shape: tuple[int, ...] = (1,)

    def __init__(self, form: RowForm, passes: Passes) -> None:
        self.form, self.passes, self.elements = form, passes, form.elements
        self.by_axes = _needs_axes(form, passes)
        self.flat = {} if self.by_axes else _views(form, passes)
        self.scalars: dict[Buffer, Load] = {}
        self.kept: dict[Buffer, Buffer] = {}

    # -- a row -------------------------------------------------------------------------------------

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
                    found = self.local("s", node.output.dtype, self.scalar_shape)
                    statements.append(self.reduced(step, node, found, row, conditions))
                case Value() as value:
                    found = self.local("s", value.dtype, self.scalar_shape)
                    statements.append(
                        self.of_row(
                            Store(
                                found,
                                self.at_scalar,
                                self.placed(step.root, self.spot(row, conditions)),
                            )
                        )
                    )
                case None:
                    statements.append(self.stored(step.root, row, conditions))
                    continue
            self.scalars[step.leaf] = Load(found, self.at_scalar)
            locals_.append(found)
        body = block(*statements)
        for local in reversed(locals_):
            body = Allocate(local, body)
        return body

    def stored(self, root: Expr, row: Extent, conditions: tuple[Extent, ...]) -> Statement:
        """The last pass: the result's elements, or its number of the row."""
        if self.form.is_row:
            return self.sweep(root, row, self.copies(root), self.storer(root), conditions)
        spot = self.spot(row, conditions)
        value = self.placed(root, spot)
        return self.of_row(guard(conditions, Store(*self.stored_at(spot), value)))

    def storer(self, root: Expr) -> Vector:
        """Stores elements of the result."""

        def store(spot: Spot) -> tuple[Statement, ...]:
            value = self.placed(root, spot)
            return (vector_loop(guard(spot.conditions, Store(*self.stored_at(spot), value))),)

        return store

    def stored_at(self, spot: Spot) -> tuple[Buffer, tuple[Extent, ...]]:
        """The output, and where in it the result's element, or its number of the row, lies."""
        if self.by_axes:
            index = (dim.substitute(part, spot.positions) for part in self.form.out_index)
            return self.elements.out, tuple(index)
        place = (spot.row, spot.at) if self.form.is_row else (spot.row,)
        return self.flat[self.elements.out], place

    # -- what the two ways differ in -------------------------------------------------------------------

    def spot(self, row: Extent, conditions: tuple[Extent, ...]) -> Spot:
        """A row without a place in it."""
        return Spot(row, 0, self.decoded(row), conditions=conditions)

    def of_row(self, statement: Statement) -> Statement:
        """A statement for a row."""
        return statement

    def copies(self, root: Expr) -> int:
        """How many vectors of the result an iteration makes."""
        return 1

    def keeps_in(self, step: Pass) -> Buffer:
        raise NotImplementedError

    def kept_at(self, spot: Spot) -> tuple[Extent, ...]:
        raise NotImplementedError

    def reduced(
        self, step: Pass, node: Node, result: Buffer, row: Extent, conditions: tuple[Extent, ...]
    ) -> Statement:
        raise NotImplementedError

    def sweep(
        self, root: Expr, row: Extent, units: int, make: Vector, conditions: tuple[Extent, ...]
    ) -> Statement:
        raise NotImplementedError

    # -- parts -------------------------------------------------------------------------------------

    def local(self, letter: str, dtype: DType, shape: tuple[int, ...]) -> Buffer:
        return Buffer(self.elements.local_name(letter), dtype, shape, is_local=True)

    def decoded(self, row: Extent) -> Mapping[Symbol, Extent]:
        """The base axes of a row, where they follow from its number; nothing reads them
        otherwise."""
        pure = self.form.pure
        return decoded(pure, row) if all(isinstance(axis.extent, int) for axis in pure[1:]) else {}

    def placed(self, root: Expr, spot: Spot) -> Expr:
        """An expression over base axes at a spot."""

        def leaf(node: Expr) -> Expr | None:
            match node:
                case Load(buffer) if buffer in self.scalars:
                    return self.scalars[buffer]
                case Load(buffer) if buffer in self.kept:
                    return Load(self.kept[buffer], self.kept_at(spot))
                case Load():
                    return self.read(node, spot)
                case Index(extent):
                    return Index(dim.substitute(extent, spot.positions))
            return None

        return scalar.rebuild(root, leaf)

    def read(self, load: Load, spot: Spot) -> Expr:
        """A load from memory at a spot."""
        buffer = self.flat.get(load.buffer, load.buffer)
        if not self.by_axes and self.form.is_dense(load):
            index: tuple[Extent, ...] = (spot.row, spot.at)
            offset = spot.row * self.form.length + spot.at
        elif not self.by_axes and self.form.is_of_row(load):
            index, offset = (spot.row,), spot.row
        else:
            index = tuple(dim.substitute(part, spot.positions) for part in load.extents)
            offset = dim.substitute(load.buffer.offset(load.extents), spot.positions)
        is_walked = buffer is not load.buffer and len(buffer.shape) == 1
        return Load(buffer, (offset,) if is_walked else index)

    def added(self, node: Node, term: Expr, present: Expr, conditions: tuple[Extent, ...]) -> Expr:
        """A term combined with what is there, if the conditions hold; a product of floats by one
        rounding."""
        compute = self.elements.computes[node]
        match term:
            case Call("mul", (left, right), dtype) if compute.combine == "add" and dtype.is_float:
                return scalar.call(
                    "fma",
                    scalar.guarded(conditions, left),
                    scalar.guarded(conditions, right),
                    present,
                )
        counted = scalar.guarded(
            conditions, term, scalar.literal(neutral_of(compute, term.dtype), term.dtype)
        )
        return scalar.call(compute.combine, present, counted)

    def term(
        self, step: Pass, spot: Spot, dtype: DType, made: Expr | None = None
    ) -> tuple[tuple[Statement, ...], Expr]:
        """(what keeps the element, the element as it is added up); ``made``: the element, if it is
        made already.
        """
        value = made or self.placed(step.root, spot)
        if step.keeps is None:
            return (), widened(value, dtype)
        place, at = self.kept[step.keeps], self.kept_at(spot)
        if place.is_local:
            keep: Statement = Store(place, at, scalar.guarded(spot.conditions, value))
        else:
            keep = guard(spot.conditions, Store(place, at, value))
        return (keep,), widened(Load(place, at), dtype)


def vectors_of(length: Extent) -> int:
    """How many vectors a row of known length has."""
    assert isinstance(length, int)
    return -(-length // LANES)


def vector_loop(*statements: Statement) -> Statement:
    return loop(LANE, LANES, block(*statements), Kind.VECTOR)


def each_unit(buffer: Buffer, make: Callable[[tuple[Extent, ...]], Statement]) -> Statement:
    """A statement for every vector of a buffer."""
    units = buffer.shape[0]
    unit = variable("u", units)
    if units == 1:
        return vector_loop(make((0, Dim.of(LANE))))
    return loop(unit, units, vector_loop(make((Dim.of(unit), Dim.of(LANE)))), Kind.UNROLLED)


def segments(
    start: Extent, length: Extent, units: int,
    make: Callable[[Extent, Extent, Extent, tuple[Extent, ...]], tuple[Statement, ...]],
) -> Statement:  # fmt: skip
    """Statements for every vector: several at a time, one at a time, and a last one of fewer
    lanes."""
    lane, full = Dim.of(LANE), length // LANES
    groups, rest = full // units, full % units
    statements: list[Statement] = []
    if groups != 0:
        group, unit = variable("v", groups), variable("u", units)
        at_unit: Extent = Dim.of(unit) if units > 1 else 0
        vector = Dim.of(group) * units + at_unit
        bodies = make(start + vector * LANES + lane, at_unit, vector, ())
        if units > 1:
            bodies = tuple(loop(unit, units, body, Kind.UNROLLED) for body in bodies)
        statements.append(loop(group, groups, block(*bodies)))
    if rest != 0:
        single = variable("t", rest)
        vector = groups * units + Dim.of(single)
        is_known = isinstance(rest, int)
        body = block(
            *make(start + vector * LANES + lane, Dim.of(single) if is_known else 0, vector, ())
        )
        if not is_known:  # always so, and said because it does not follow from ranges alone
            body = guard((length - LANES - vector * LANES,), body)
        statements.append(loop(single, rest, body, Kind.UNROLLED if is_known else Kind.SERIAL))
    if length % LANES != 0:
        conditions = (length - 1 - full * LANES - lane,)
        statements += make(start + full * LANES + lane, 0, full, conditions)
    return block(*statements)


def merged_from(form: RowForm, root: Expr) -> int:
    """The first of the reduced axes that an expression walks as one with all behind it."""
    for first in range(len(form.reduced) - 1):
        inner = form.reduced[first:]
        merged = Axis.of("j", dim.product([axis.extent for axis in inner]))
        if not all(isinstance(axis.extent, int) for axis in inner[1:]):
            continue
        values = decoded(inner, merged.position)
        if not any(
            takes_apart(dim.substitute(e, values), merged.symbol)
            for e in _decoded_extents(form, root)
        ):
            return first
    return len(form.reduced) - 1


def _needs_axes(form: RowForm, passes: Passes) -> bool:
    """Whether something is read at places that follow from the axes of the rows, and not from the
    number of a row."""
    if all(isinstance(axis.extent, int) for axis in form.pure[1:]):
        return False
    extents = [extent for root in passes.roots for extent in _decoded_extents(form, root)]
    return not dim.symbols_of(extents).isdisjoint(axis.symbol for axis in form.pure)


def _decoded_extents(form: RowForm, root: Expr) -> list[Extent]:
    """What follows from the base axes, and not from the numbers of the row and the element
    alone."""
    nodes = scalar.post_order([root])
    loads = [
        n for n in nodes if isinstance(n, Load) and not form.is_dense(n) and not form.is_of_row(n)
    ]
    return [n.buffer.offset(n.extents) for n in loads] + [
        n.extent for n in nodes if isinstance(n, Index)
    ]


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


__all__ = [
    "RowLoops",
    "Spot",
    "Vector",
    "each_unit",
    "merged_from",
    "segments",
    "vector_loop",
    "vectors_of",
]
