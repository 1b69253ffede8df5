"""What a node that does not fit says about a free dim: exported models hold limits that they do not
declare.

A mask of 64 x 64, cut to the sequence's length, fits lengths up to 64 only; a shape with a number
written into it, one; an image that is halved and doubled again meets itself only where its size is
even.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Minimum, Symbol, product, substitute, symbols_of
from netloom.compiler.graph import Value
from netloom.errors import NetloomError, ShapeError

from .context import Context
from .equal_extents import equal_extents
from .node import ModelNode

LARGEST_LEAST = 1024  # that a free dim may have to be at least
FACTORS = (2, 3, 4, 5, 6, 7, 8, 16, 32, 64)  # of which a free dim may have to be a multiple


@dataclass(frozen=True)
class MultipleOf:
    """All numbers that ``factor`` divides."""

    factor: int


@dataclass(frozen=True)
class AtLeast:
    """All numbers from ``least`` on."""

    least: int


Numbers: TypeAlias = int | range | MultipleOf | AtLeast  # that a free dim may be


class Restriction(Exception):
    """The model can be imported only where the free dim ``name`` is as ``chosen`` says."""

    def __init__(self, name: str, chosen: int | range) -> None:
        super().__init__(f"{name} in {chosen}")
        self.name, self.chosen = name, chosen


class TooSmall(ShapeError):
    """A node does not fit where an extent is less than ``fewest``."""

    def __init__(
        self, message: str, *, node: str = "", hint: str = "", extent: Extent = 0, fewest: int = 0
    ) -> None:
        super().__init__(message, node=node, hint=hint)
        self.extent, self.fewest = extent, fewest


class NotThatNumber(ShapeError):
    """A node does not fit where an extent is not ``number``."""

    def __init__(
        self, message: str, *, node: str = "", hint: str = "", extent: Extent = 0, number: int = 0
    ) -> None:
        super().__init__(message, node=node, hint=hint)
        self.extent, self.number = extent, number


def restriction_of(
    context: Context, node: ModelNode, error: NetloomError
) -> tuple[Symbol, Numbers] | None:
    """The symbol and its numbers for which the node's inputs fit; None if that is not the
    trouble.
    """
    if isinstance(error, TooSmall):
        return _where_at_least(error.extent, error.fewest)
    if isinstance(error, NotThatNumber):
        symbol = _symbol(error.extent)
        return None if symbol is None else (symbol, error.number)
    if node.op_type == "Reshape":
        return _where_reshaped(context, node)
    for left, right in equal_extents(context, node):
        for cut, whole in ((left, right), (right, left)):
            if (symbol := _symbol(whole)) is not None and (
                most := _cut_at(cut, symbol)
            ) is not None:
                return symbol, range(symbol.lo if isinstance(symbol.lo, int) else 1, most + 1)
            if (number := _where_number(cut, whole)) is not None:
                return number
            if cut != whole and cut == dim.maximum(whole, 0):
                return _where_at_least(whole, 0)
        if (found := _where_equal(left, right)) is not None:
            return found
    return None


def _where_number(extent: Extent, number: Extent) -> tuple[Symbol, int] | None:
    """The symbol, and its number, for which a multiple of it is that number."""
    if not isinstance(number, int) or not isinstance(extent, Dim) or len(extent.terms) != 1:
        return None
    ((atoms, factor),) = extent.terms
    match atoms:
        case (Symbol() as symbol,) if number % factor == 0:
            return symbol, number // factor
    return None


def _where_equal(left: Extent, right: Extent) -> tuple[Symbol, MultipleOf] | None:
    """The symbol of whose multiples two extents are equal that are not so for every number."""
    if left == right or not (isinstance(left, Dim) and isinstance(right, Dim)):
        return None
    shared = sorted(symbols_of([left]) & symbols_of([right]), key=str)
    return _multiple_where(
        shared, lambda multiples: substitute(left, multiples) == substitute(right, multiples)
    )


def _multiple_where(
    symbols: Sequence[Symbol], fits: Callable[[dict[Symbol, Extent]], bool]
) -> tuple[Symbol, MultipleOf] | None:
    """The first symbol that must be a multiple, and of which factor: alone, or else together with
    all the others (windows of 7 x 7 need both sizes; the next import finds the next).
    """
    groups = [[symbol] for symbol in symbols] + [list(symbols)] * (len(symbols) > 1)
    for group in groups:
        for factor in FACTORS:
            multiples: dict[Symbol, Extent] = {s: Dim.of(s) * factor for s in group}
            if not fits(multiples):
                continue
            for symbol in group:
                others = {s: multiple for s, multiple in multiples.items() if s != symbol}
                if not fits(others):
                    return symbol, MultipleOf(factor)
    return None


def _where_at_least(extent: Extent, fewest: int) -> tuple[Symbol, AtLeast] | None:
    """The only symbol of an extent, and its numbers from which on the extent is large enough."""
    symbols = symbols_of([extent])
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    if not isinstance(symbol.hi, int):
        return None
    for least in range(symbol.lo + 1, min(symbol.hi, LARGEST_LEAST) + 1):
        narrowed = dim.symbol(symbol.name, least, symbol.hi)
        if dim.is_nonnegative(substitute(extent, {symbol: narrowed}) - fewest):
            return symbol, AtLeast(least)
    return None


def _symbol(extent: Extent) -> Symbol | None:
    """The symbol that an extent is."""
    atom = _only_atom(extent)
    return atom if isinstance(atom, Symbol) else None


def _only_atom(extent: Extent) -> object:
    if not isinstance(extent, Dim) or len(extent.terms) != 1:
        return None
    ((atoms, factor),) = extent.terms
    return atoms[0] if factor == 1 and len(atoms) == 1 else None


def _cut_at(extent: Extent, symbol: Symbol) -> int | None:
    """The number c where an extent is min(c, symbol)."""
    atom = _only_atom(extent)
    if not isinstance(atom, Minimum):
        return None
    parts = {type(part): part for part in (atom.left, atom.right)}
    limit, other = parts.get(int), parts.get(Dim)
    return limit if isinstance(limit, int) and limit > 1 and other == Dim.of(symbol) else None


def _where_reshaped(context: Context, node: ModelNode) -> tuple[Symbol, Numbers] | None:
    """Where the input of a Reshape has as many elements as its new shape."""
    x, shape = node.inputs[:2] if len(node.inputs) == 2 else (None, None)
    contents = context.contents(shape) if isinstance(shape, Value) else None
    if not isinstance(x, Value) or contents is None or contents.ndim != 1:
        return None
    wanted: list[Extent] = [
        x.shape[axis] if extent == 0 and axis < x.type.rank else extent
        for axis, extent in enumerate(contents.tolist())
    ]
    have = x.type.elements
    if -1 in wanted:
        return _where_divided(have, product([extent for extent in wanted if extent != -1]))
    want = product(wanted)
    return _only_number(have, want) or _where_equal(have, want)


def _where_divided(have: Extent, parts: Extent) -> tuple[Symbol, MultipleOf] | None:
    """The only symbol of whose multiples one number of elements divides another."""
    found = [
        restriction
        for symbol in sorted(symbols_of([have]), key=str)
        if (restriction := _multiple_where([symbol], partial(_divides, have, parts))) is not None
    ]
    return found[0] if len(found) == 1 else None


def _divides(have: Extent, parts: Extent, multiples: dict[Symbol, Extent]) -> bool:
    return dim.exact_quotient(substitute(have, multiples), substitute(parts, multiples)) is not None


def _only_number(have: Extent, want: Extent) -> tuple[Symbol, int] | None:
    """The number of one symbol with which two numbers of elements are equal."""
    if not isinstance(have, Dim) or len(have.terms) != 1:
        return None
    ((atoms, factor),) = have.terms
    ((others, size),) = (
        want.terms if isinstance(want, Dim) and len(want.terms) == 1 else (((), want),)
    )
    rest = list(atoms)
    for atom in others:
        if atom not in rest:
            return None
        rest.remove(atom)
    if (
        len(rest) != 1
        or not isinstance(rest[0], Symbol)
        or not isinstance(size, int)
        or size % factor
        or size < factor
    ):
        return None
    return rest[0], size // factor
