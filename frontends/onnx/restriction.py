"""What a node that does not fit says about a free dim: exported models hold limits that they do not
declare.

A mask of 64 x 64, cut to the sequence's length, fits lengths up to 64 only; a shape with a number
written into it, one; an image that is halved and doubled again meets itself only where its size is
even; inputs that are added have one batch, though their exporter named it twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations, zip_longest
from itertools import product as product_of
from typing import TypeAlias

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Minimum, Symbol, product, substitute, symbols_of
from netloom.compiler.graph import Value
from netloom.errors import NetloomError, ShapeError

from .context import Context
from .input_shapes import LARGEST_DIM, InputShapes
from .names import printable
from .node import ModelNode

LARGEST_LEAST = 1024  # that a free dim may have to be at least
FACTORS = (2, 3, 4, 5, 6, 7, 8, 16, 32, 64)  # of which a free dim may have to be a multiple
# axes of two operands that one sum runs over; those of boxes and scores that number boxes
SUMMED = {"MatMul": (-1, -2), "NonMaxSuppression": (-2, -1)}
# ops whose operands' extents are equal where ``_aligned`` says, or broadcast against each other
ALIGNED = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "Where", "Max", "Min", "Mean", "Sum", "PRelu", "Concat", "Expand", *SUMMED,
))  # fmt: skip


@dataclass(frozen=True)
class MultipleOf:
    """All numbers that ``factor`` divides."""

    factor: int


@dataclass(frozen=True)
class SameAs:
    """What another free dim is."""

    other: Symbol


Chosen: TypeAlias = int | range | MultipleOf | SameAs


class Restriction(Exception):
    """The model can be imported only where the free dim ``name`` is as ``chosen`` says: a number,
    one of a range, or what another free dim is."""

    def __init__(self, name: str, chosen: int | range | str) -> None:
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


def restrict(
    context: Context,
    inputs: InputShapes,
    fixed: Collection[str],
    node: ModelNode,
    error: NetloomError,
) -> str:
    """Raises Restriction where numbers of a free dim would make the node fit. If the caller chose
    that dim (it is ``fixed``), the advice that remains; "" if there is none.
    """
    found = restriction_of(context, node, error)
    if found is None:
        return ""
    symbol, chosen = found
    name, step = inputs.dim_of(symbol)
    if not name:
        return ""
    if isinstance(chosen, SameAs):
        return _unite(inputs, fixed, (name, step), inputs.dim_of(chosen.other))
    if name in fixed:
        shown = f"It fits where {printable(name)} is"
        match chosen:
            case MultipleOf(factor):
                return f"{shown} a multiple of {factor * step}."
            case range() if isinstance(error, TooSmall):
                return f"{shown} {chosen[0] * step} at least."
        return ""
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
    return ""


def _unite(
    inputs: InputShapes, fixed: Collection[str], one: tuple[str, int], two: tuple[str, int]
) -> str:
    """Two free dims, each with how many times its symbol it is, as one."""
    if not two[0] or one[1] != two[1]:
        return ""
    first, second = sorted((one[0], two[0]), key=list(inputs.symbols).index)
    for free, kept in ((second, first), (first, second)):
        if free not in fixed:
            raise Restriction(free, kept)
    return f"It fits where {printable(second)} is {printable(first)}."


def restriction_of(
    context: Context, node: ModelNode, error: NetloomError
) -> tuple[Symbol, Chosen] | None:
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
        if (found := _where_equal(left, right, node.op_type in ALIGNED)) is not None:
            return found
    return None


def _where_equal(left: Extent, right: Extent, must_be: bool) -> tuple[Symbol, Chosen] | None:
    """What makes two extents equal that are not so for every number; ``must_be``: the op is known
    to need that."""
    if left == right:
        return None
    if isinstance(left, Dim) and isinstance(right, Dim):
        same = _where_same(left, right) if must_be else None
        return _where_multiple(left, right) or same
    if not must_be:
        return None
    for extent, number in ((left, right), (right, left)):
        if isinstance(number, int) and number > 1 and (symbol := _symbol(extent)) is not None:
            return symbol, number
    return None


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
    if node.op_type in SUMMED and len(values) > 1 and min(v.type.rank for v in values[:2]) > 1:
        left, right = (value.shape for value in values[:2])
        place = SUMMED[node.op_type]
        yield left[place[0]], right[place[1]]
        yield from zip(reversed(left[:-2]), reversed(right[:-2]), strict=False)
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


def _where_same(left: Dim, right: Dim) -> tuple[Symbol, SameAs] | None:
    """The symbol of one extent that must be what a symbol of the other is."""
    ours, theirs = (
        sorted(symbols_of([a]) - symbols_of([b]), key=str)
        for a, b in ((left, right), (right, left))
    )
    for symbol, other in product_of(ours, theirs):
        if substitute(left, {symbol: Dim.of(other)}) == right:
            return symbol, SameAs(other)
    return None


def _where_multiple(left: Dim, right: Dim) -> tuple[Symbol, MultipleOf] | None:
    """The symbol of whose multiples two extents are equal."""
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
