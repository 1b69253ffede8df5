"""The loop IR, on one page.

    statement  := Block(statement...) | For(variable, extent, kind, body) | If(conditions, body)
                | When(holds, body) | Let(variable, extent, body) | Allocate(buffer, body)
                | Store(buffer, index, value, bypasses_cache) | Prefetch(element)
    value      := the scalar expressions of compiler/scalar/, plus Load(buffer, index)
                | LaneFold(buffer, index, combine)
    index      := extents (compiler/dim) over loop variables and the kernel's symbols,
                | int64 expressions

A ``For`` runs its body for 0 <= variable < extent: in order (serial), as the kernel's work items
(parallel, outermost only), copied out (unrolled, constant extent), or as lanes of one vector
(vector, constant extent). Iterations of a vector loop do not depend on each other. Conditions hold
where they are >= 0; a ``When`` tests a truth value that is computed, outside vector loops. Stored
and loaded indices always lie inside the buffer; ``Guarded`` and ``If`` are how a kernel keeps that
promise at borders. No variable is bound again inside its own scope:
names of loops match ``LOOP_VARIABLE``, those of kernels' symbols do not (passes/memory/launches.py
sees to it). A symbol's range where it is used is a claim about its value there, and may be narrower
than where it is bound. ``loops/verify.py`` checks all this, ``loops/interpret.py`` is the meaning.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from .. import dim
from ..dim import Dim, Extent, Symbol
from ..scalar import Checked, Expr, Guarded, Index, post_order
from ..tensor_type import DType

# of every vector, whatever the machine's registers: narrower machines use several a vector
LANES = 16
LANE = Symbol("l", 0, LANES - 1)  # the variable of every vector loop
LOOP_VARIABLE = re.compile("[a-z]{1,2}|[pr][0-9][a-z0-9]*")  # names that are left to loops


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory of one dtype, row-major. A local buffer belongs to the work item (registers, if its
    indices are fixed).
    """

    name: str
    dtype: DType
    shape: tuple[Extent, ...]
    is_local: bool = False

    def offset(self, index: tuple[Extent, ...]) -> Extent:
        """The element number at an index."""
        total: Extent = 0
        for extent, position in zip(self.shape, index, strict=True):
            total = total * extent + position
        return total


@dataclass(frozen=True, eq=False)
class Load(Expr):
    """The element of a buffer at an index."""

    buffer: Buffer
    index: tuple[Extent | Expr, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.buffer.dtype

    @cached_property
    def index_expressions(self) -> tuple[Expr, ...]:
        """The parts of the index that are computed at run time."""
        return tuple(part for part in self.index if isinstance(part, Expr))

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The parts of the index that loop variables decide."""
        return tuple(part for part in self.index if not isinstance(part, Expr))

    def with_index_expressions(self, new: tuple[Expr, ...]) -> Load:
        """The same load with its computed index parts replaced, in order."""
        rest = list(new)
        return Load(
            self.buffer, tuple(rest.pop(0) if isinstance(p, Expr) else p for p in self.index)
        )


@dataclass(frozen=True, eq=False)
class LaneFold(Expr):
    """All lanes of a local vector combined in a fixed tree: lane i with lane i + width/2, and so
    on.
    """

    buffer: Buffer
    index: tuple[Extent, ...]  # of the vector; the lanes are the buffer's last axis
    combine: str

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.buffer.dtype


class Kind(enum.Enum):
    """How a loop's iterations are run."""

    SERIAL = "for"
    PARALLEL = "parallel"
    UNROLLED = "unrolled"
    VECTOR = "vector"


@dataclass(frozen=True, eq=False)
class Store:
    """``bypasses_cache``: a hint that the element is not read again soon, for results that the
    last-level cache does not keep: lines that are stored whole need not be read before. Parts of
    the index may be computed at run time; in vector loops all lanes share these, and store
    neighbours."""

    buffer: Buffer
    index: tuple[Extent | Expr, ...]
    value: Expr
    bypasses_cache: bool = False

    @cached_property
    def index_expressions(self) -> tuple[Expr, ...]:
        """The parts of the index that are computed at run time."""
        return tuple(part for part in self.index if isinstance(part, Expr))

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The parts of the index that loop variables decide."""
        return tuple(part for part in self.index if not isinstance(part, Expr))

    @property
    def is_row(self) -> bool:
        """Whether lanes store neighbours at a place whose computed parts they share."""
        parts = (n for root in self.index_expressions for n in post_order([root]))
        shared = LANE not in dim.symbols_of([e for part in parts for e in extents_in(part)])
        return shared and slope_along(self.buffer.offset(without_computed(self.index)), LANE) == 1


@dataclass(frozen=True, eq=False)
class Prefetch:
    """A hint that the element of an argument is read soon. It changes nothing, and does nothing
    where the index lies outside the buffer; what its index loads lies inside."""

    element: Load


@dataclass(frozen=True, eq=False)
class Block:
    """Statements, one after another."""

    statements: tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class For:
    """The body for each variable in 0 <= variable < extent, as ``kind`` says."""

    variable: Symbol
    extent: Extent
    kind: Kind
    body: Statement


@dataclass(frozen=True, eq=False)
class If:
    """The body where every condition is >= 0; inside a vector loop, per lane."""

    conditions: tuple[Extent, ...]
    body: Statement


@dataclass(frozen=True, eq=False)
class When:
    """The body where a truth value holds that is computed at run time."""

    holds: Expr
    body: Statement


@dataclass(frozen=True, eq=False)
class Allocate:
    """The body with a local buffer; what is read of it was written before."""

    buffer: Buffer
    body: Statement


@dataclass(frozen=True, eq=False)
class Let:
    """The body with a variable bound to an extent."""

    variable: Symbol
    extent: Extent
    body: Statement


Statement: TypeAlias = Store | Prefetch | Block | For | If | When | Allocate | Let


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function over buffers and extents; ``items`` is the extent of its parallel loop."""

    name: str
    buffers: tuple[Buffer, ...]  # arguments, in order; the outputs come last
    symbols: tuple[Symbol, ...]  # extent arguments, in order
    items: Extent
    variable: Symbol  # the work item
    body: Statement


def walk(statement: Statement) -> Iterator[Statement]:
    """A statement and all inside it, outermost first."""
    stack = [statement]
    while stack:
        item = stack.pop()
        yield item
        match item:
            case Block(statements):
                stack += reversed(statements)
            case (
                For(body=body) | If(body=body) | When(body=body) | Allocate(body=body)
                | Let(body=body)
            ):  # fmt: skip
                stack.append(body)


def expressions_in(statement: Statement) -> tuple[Expr, ...]:
    """The expressions that stand in a statement itself (not in those inside it)."""
    match statement:
        case Store(value=value):
            return (value, *statement.index_expressions)
        case When(holds):
            return (holds,)
        case Prefetch(element):
            return element.index_expressions
    return ()


def extents_in(item: Statement | Expr) -> tuple[Extent, ...]:
    """The extents that stand in a statement or an expression itself (not in those inside it)."""
    match item:
        case LaneFold(index=index):
            return index
        case Load(index=index) | Store(index=index) | Prefetch(Load(index=index)):
            return tuple(part for part in index if not isinstance(part, Expr))
        case For(extent=extent) | Let(extent=extent) | Index(extent) | Checked(extent=extent):
            return (extent,)
        case If(conditions=conditions) | Guarded(conditions=conditions):
            return conditions
        case Allocate(buffer):
            return buffer.shape
    return ()


def without_computed(index: Sequence[Extent | Expr]) -> tuple[Extent, ...]:
    """An index with 0 for the parts that are computed at run time."""
    return tuple(0 if isinstance(part, Expr) else part for part in index)


def slope_along(offset: Extent, symbol: Symbol) -> int | None:
    """The coefficient of a symbol in an offset; None if it is not a constant."""
    if isinstance(offset, int):
        return 0
    slope = 0
    for atoms, factor in offset.terms:
        if atoms == (symbol,):
            slope = factor
        elif any(symbol in Dim.of(atom).symbols() for atom in atoms):
            return None
    return slope


def variable(name: str, extent: Extent) -> Symbol:
    """A loop variable with its range, from which borders are proved."""
    return Symbol(name, 0, extent - 1)


def block(*statements: Statement) -> Statement:
    """Statements in order; one alone stays as it is, and blocks inside are flattened."""
    flat = tuple(
        inner for s in statements for inner in (s.statements if isinstance(s, Block) else (s,))
    )
    return flat[0] if len(flat) == 1 else Block(flat)


def loop(symbol: Symbol, extent: Extent, body: Statement, kind: Kind = Kind.SERIAL) -> Statement:
    """A loop."""
    return For(symbol, extent, kind, body)


def guard(conditions: tuple[Extent, ...], body: Statement) -> Statement:
    """The body under those conditions that are not proved already."""
    reduced = dict.fromkeys(map(dim.reduced_condition, conditions))
    left = dim.unproved(reduced)
    return If(left, body) if left else body
