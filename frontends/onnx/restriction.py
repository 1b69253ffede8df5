"""What a node that does not fit says about a free dim: exported models hold limits that they do not
declare.

A mask of 64 x 64, cut to the sequence's length, fits lengths up to 64 only; a shape with a number
written into it, one; an image that is halved and doubled again meets itself only where its size is
even.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, zip_longest

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Minimum, Symbol, product, substitute, symbols_of
from netloom.compiler.graph import Value
from netloom.errors import NetloomError, ShapeError

from .context import Context
from .input_shapes import LARGEST_DIM
from .names import printable
from .node import ModelNode

LARGEST_LEAST = 1024  # that a free dim may have to be at least
FACTORS = (2, 3, 4, 5, 6, 7, 8, 16, 32, 64)  # of which a free dim may have to be a multiple


@dataclass(frozen=True)
class MultipleOf:
    """All numbers that ``factor`` divides."""

    factor: int


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
) -> tuple[Symbol, int | range | MultipleOf] | None:
    """The symbol and its numbers for which the node's inputs fit; None if that is not the
    trouble.
    """
    if isinstance(error, TooSmall):
        return _where_at_least(error.extent, error.fewest)
    if isinstance(error, NotThatNumber):
        symbol = _symbol(error.extent)
        return None if symbol is None else (symbol, error.number)
    values = [value for value in node.inputs if isinstance(value, Value)]
    if node.op_type == "Reshape" and len(values) == 2:
        return _only_number(context, values[0], values[1])
    for left, right in _aligned(context, node, values):
        for cut, whole in ((left, right), (right, left)):
            if (symbol := _symbol(whole)) is not None and (
                most := _cut_at(cut, symbol)
            ) is not None:
                return symbol, range(symbol.lo if isinstance(symbol.lo, int) else 1, most + 1)
        if (found := _where_equal(left, right)) is not None:
            return found
    return None


def advice(name: str, step: int, chosen: int | range | MultipleOf, error: NetloomError) -> str:
    """What the caller, who chose the dim's numbers, is told; ``step``: of the symbol."""
    shown = f"It fits where {printable(name)} is"
    match chosen:
        case MultipleOf(factor):
            return f"{shown} a multiple of {factor * step}."
        case range() if isinstance(error, TooSmall):
            return f"{shown} {chosen[0] * step} at least."
    return ""


def restrict(
    name: str, step: int, symbol: Symbol, chosen: int | range | MultipleOf, error: NetloomError
) -> None:
    """Raises Restriction if the model is to be imported again with these numbers of the dim."""
    most = LARGEST_DIM // step
    match chosen:
        case int() if symbol.hi == most and 1 <= chosen:
            raise Restriction(name, chosen * step)
        case range() if isinstance(error, TooSmall) and chosen.start > symbol.lo:
            raise Restriction(name, range(chosen[0] * step, chosen[-1] * step + 1, step))
        case range() if symbol.hi == most and chosen.start >= 1 and chosen[-1] < most:
            raise Restriction(name, range(chosen[0] * step, chosen[-1] * step + 1, step))
        case MultipleOf(factor) if isinstance(symbol.hi, int) and factor <= symbol.hi:
            raise Restriction(name, range(factor * step, symbol.hi * step + 1, factor * step))


def _aligned(
    context: Context, node: ModelNode, values: list[Value]
) -> Iterator[tuple[Extent, Extent]]:
    """Extents of two values that must be equal, or broadcast against each other."""
    if node.op_type == "Expand":
        wanted = context.contents(values[-1])
        if wanted is not None and wanted.ndim == 1:
            pairs = zip_longest(reversed(values[0].shape), reversed(wanted.tolist()), fillvalue=1)
            yield from pairs
        return
    for a, b in combinations(values, 2):
        if node.op_type == "Concat":
            joined = node.integer("axis", 1) % max(a.type.rank, 1)
            yield from (
                pair
                for axis, pair in enumerate(zip(a.shape, b.shape, strict=False))
                if axis != joined
            )
        else:
            yield from zip_longest(reversed(a.shape), reversed(b.shape), fillvalue=1)


def _where_equal(left: Extent, right: Extent) -> tuple[Symbol, MultipleOf] | None:
    """The symbol of whose multiples two extents are equal that are not so for every number."""
    if left == right or not (isinstance(left, Dim) and isinstance(right, Dim)):
        return None
    for symbol in sorted(symbols_of([left]) & symbols_of([right]), key=str):
        for factor in FACTORS:
            multiple = {symbol: Dim.of(symbol) * factor}
            if substitute(left, multiple) == substitute(right, multiple):
                return symbol, MultipleOf(factor)
    return None


def _where_at_least(extent: Extent, fewest: int) -> tuple[Symbol, range] | None:
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
            return symbol, range(least, symbol.hi + 1)
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


def _only_number(context: Context, x: Value, shape: Value) -> tuple[Symbol, int | range] | None:
    """The number n of one symbol with which x has as many elements as the new shape."""
    contents = context.contents(shape)
    if contents is None or contents.ndim != 1:
        return None
    wanted = [
        x.shape[axis] if extent == 0 and axis < x.type.rank else extent
        for axis, extent in enumerate(contents.tolist())
    ]
    have, want = x.type.elements, product(wanted)
    if not isinstance(have, Dim) or len(have.terms) != 1 or -1 in wanted:
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
