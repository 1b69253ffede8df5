"""What a node that does not fit says about a free dim: exported models hold limits that they do not
declare.

A mask of 64 x 64, cut to the sequence's length, fits lengths up to 64 only; a shape with a number
written into it, one; an image that is halved and doubled again meets itself only where its size is
even; inputs that are added have one batch, though their exporter named it twice. ``equal_extents``
says which extents must be equal; ``restriction_of`` for which numbers of one free dim they are, or
which other one it then is; ``restrict`` has the model imported again with these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product as pairs_of
from typing import TypeAlias

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Minimum, Symbol, product, substitute, symbols_of
from netloom.errors import NetloomError, ShapeError, UnsupportedOpError

from .context import Context
from .equal_extents import BROADCASTING, equal_extents, new_shape
from .input_shapes import InputShapes
from .names import printable
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


@dataclass(frozen=True)
class SameAs:
    """``times`` what another free dim is."""

    other: Symbol
    times: int = 1


Chosen: TypeAlias = int | range | MultipleOf | AtLeast | SameAs  # what a free dim may be


class Restriction(Exception):
    """The model can be imported only where the free dim ``name`` is as ``chosen`` says: a number,
    one of a range, or what another free dim is. ``note``: what the user should know of it.
    """

    def __init__(self, name: str, chosen: int | range | str, note: str = "") -> None:
        super().__init__(f"{name} in {chosen}")
        self.name, self.chosen, self.note = name, chosen, note


class TooSmall(ShapeError):
    """A node does not fit where an extent is less than ``fewest``."""

    def __init__(
        self, message: str, *, node: str = "", hint: str = "", extent: Extent = 0, fewest: int = 0
    ) -> None:
        super().__init__(message, node=node, hint=hint)
        self.extent, self.fewest = extent, fewest


class Undecided(UnsupportedOpError):
    """What a node does depends on whether a free dim is less than ``least``."""

    def __init__(
        self, message: str, *, node: str = "", hint: str = "", symbol: Symbol | None = None,
        least: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(message, node=node, hint=hint)
        self.symbol, self.least = symbol, least


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
        other, parts = inputs.dim_of(chosen.other)
        return _unite(inputs, fixed, name, other) if other and step * chosen.times == parts else ""
    if name in fixed:
        shown = f"It fits where {printable(name)} is"
        match chosen:
            case MultipleOf(factor):
                return f"{shown} a multiple of {factor * step}."
            case AtLeast(least):
                return f"{shown} {least * step} at least."
            case int() if chosen > 0:
                return f"{shown} {chosen * step}."
        return ""
    if not isinstance(symbol.hi, int):
        return ""
    match chosen:  # fewer numbers each time, so imports end
        case int() if symbol.lo < symbol.hi and max(symbol.lo, 1) <= chosen <= symbol.hi:
            raise Restriction(name, chosen * step)
        case AtLeast(least):
            numbers = range(least * step, symbol.hi * step + 1, step)
            other = (
                f"{error.node or node.title}: the free dim {printable(name)} is {numbers[0]} at least, for it does "
                "something else for less; to import that, fix the dim (dims=; --dim)."
            )
            raise Restriction(name, numbers, other if isinstance(error, Undecided) else "")
        case range() if chosen.start >= 1 and chosen[-1] < symbol.hi:
            raise Restriction(name, range(chosen[0] * step, chosen[-1] * step + 1, step))
        case MultipleOf(factor) if factor <= symbol.hi:
            raise Restriction(name, range(factor * step, symbol.hi * step + 1, factor * step))
    return ""


def _unite(inputs: InputShapes, fixed: Collection[str], one: str, other: str) -> str:
    """Two free dims as one: the first that the inputs name, unless the caller chose the second."""
    first, second = sorted((one, other), key=list(inputs.symbols).index)
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
        rest = error.extent - error.fewest
        return _where_tried(rest) or _where_at_least(rest)
    if isinstance(error, Undecided):
        return None if error.symbol is None else (error.symbol, AtLeast(error.least))
    if isinstance(error, NotThatNumber):
        symbol = _symbol(error.extent)
        return None if symbol is None else (symbol, error.number)
    if node.op_type == "Reshape" and (parts := _where_divided(context, node)) is not None:
        return parts
    for left, right in equal_extents(context, node):
        if node.op_type in BROADCASTING and (one := _where_one(left) or _where_one(right)):
            return one
        for cut, whole in ((left, right), (right, left)):
            if (symbol := _symbol(whole)) is not None and (
                most := _cut_at(cut, symbol)
            ) is not None:
                return symbol, range(symbol.lo if isinstance(symbol.lo, int) else 1, most + 1)
            if (number := _where_number(cut, whole)) is not None:
                return number
            if cut != whole and cut == dim.maximum(whole, 0):
                return _where_at_least(whole)
        if (found := _where_equal(left, right) or _where_numbers(left, right)) is not None:
            return found
    return None


def _where_number(have: Extent, want: Extent) -> tuple[Symbol, int] | None:
    """The symbol, and its number, with which two products are equal that differ in it alone."""
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
    match rest:
        case [Symbol() as symbol] if isinstance(size, int) and size % factor == 0:
            return symbol, size // factor
    return None


def _where_equal(left: Extent, right: Extent) -> tuple[Symbol, MultipleOf | SameAs] | None:
    """What makes two extents equal that are not so for every number."""
    if left == right or not (isinstance(left, Dim) and isinstance(right, Dim)):
        return None
    shared = sorted(symbols_of([left]) & symbols_of([right]), key=str)
    return _multiple_where(
        shared, lambda multiples: substitute(left, multiples) == substitute(right, multiples)
    ) or _where_same(left, right)


def _where_numbers(left: Extent, right: Extent) -> tuple[Symbol, int | range] | None:
    """The numbers of the only symbol with which two extents are equal, if they lie side by side:
    (h // 8) ^ 2 is 16 for h from 32 to 39.
    """
    apart = left - right
    tries = _tried(apart)
    if tries is None:
        return None
    symbol, tried = tries
    numbers = [number for number in tried if dim.evaluate(apart, {symbol.name: number}) == 0]
    if not numbers or numbers[-1] == tried[-1] or len(numbers) != numbers[-1] - numbers[0] + 1:
        return None
    return symbol, numbers[0] if len(numbers) == 1 else range(numbers[0], numbers[-1] + 1)


def _where_same(left: Dim, right: Dim) -> tuple[Symbol, SameAs] | None:
    """The symbol of one extent that must be what a symbol of the other is, or so many times that:
    dims that are multiples have symbols of their parts.
    """
    for times, (a, b) in pairs_of((1, *FACTORS), ((left, right), (right, left))):
        for symbol, other in _apart(a, b):
            if substitute(a, {symbol: Dim.of(other) * times}) == b:
                return symbol, SameAs(other, times)
    return None


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


def _where_at_least(extent: Extent) -> tuple[Symbol, AtLeast] | None:
    """The only symbol of an extent, and its numbers from which on it is proved to be 0 or more."""
    symbols = symbols_of([extent])
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    if not isinstance(symbol.hi, int):
        return None
    for least in range(symbol.lo + 1, min(symbol.hi, LARGEST_LEAST) + 1):
        narrowed = dim.symbol(symbol.name, least, symbol.hi)
        if dim.is_nonnegative(substitute(extent, {symbol: narrowed})):
            return symbol, AtLeast(least)
    return None


def _where_tried(extent: Extent) -> tuple[Symbol, AtLeast | range] | None:
    """The only symbol of an extent, and its first or last numbers, if for these alone of those that
    are tried it is 0 or more.
    """
    found = _tried(extent)
    if found is None:
        return None
    symbol, tried = found
    fits = [dim.evaluate(extent, {symbol.name: number}) >= 0 for number in tried]
    count = sum(fits)
    if 0 < count < len(tried) and all(fits[:count]):
        return symbol, tried[:count]
    return _from_on(symbol, tried, fits)


def _where_one(extent: Extent) -> tuple[Symbol, AtLeast] | None:
    """The only symbol of an extent, and its numbers from which on it is 1, so that it broadcasts: the
    last element of an axis that small numbers leave empty.
    """
    found = _tried(extent)
    if found is None:
        return None
    symbol, tried = found
    return _from_on(symbol, tried, [dim.evaluate(extent, {symbol.name: n}) == 1 for n in tried])


def _from_on(symbol: Symbol, tried: range, fits: list[bool]) -> tuple[Symbol, AtLeast] | None:
    """The numbers from which on all fit, if others do not."""
    count = sum(fits)
    is_end = 0 < count < len(tried) and all(fits[-count:])
    return (symbol, AtLeast(tried[-count])) if is_end else None


def is_negative_somewhere(context: Context, extent: Extent) -> bool:
    """Whether it is negative, or a small number of the only free dim in it makes it so."""
    if isinstance(extent, int) or dim.is_nonnegative(extent):
        return isinstance(extent, int) and extent < 0
    found = _tried(extent)
    if found is None or Dim.of(found[0]) in (*context.data_bounds, *context.turns):
        return False
    symbol, tried = found
    return any(dim.evaluate(extent, {symbol.name: number}) < 0 for number in tried)


def _tried(extent: Extent) -> tuple[Symbol, range] | None:
    """The only symbol of an extent, and its numbers that are tried one by one."""
    symbols = symbols_of([extent])
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    if not (isinstance(symbol.lo, int) and isinstance(symbol.hi, int)):
        return None
    return symbol, range(max(symbol.lo, 1), min(symbol.hi, LARGEST_LEAST) + 1)


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


def _where_divided(context: Context, node: ModelNode) -> tuple[Symbol, MultipleOf | SameAs] | None:
    """The only symbol of whose multiples the -1 of a Reshape is a number, or the only two that make
    it one if they are equal (an encoder's batch, and its decoder's).
    """
    wanted = new_shape(context, node)
    if wanted is None or -1 not in wanted:
        return None
    have = node.input(0).type.elements
    parts = product([extent for extent in wanted if extent != -1])
    divides = partial(_divides, have, parts)
    found: list[tuple[Symbol, MultipleOf | SameAs]] = [
        restriction
        for symbol in sorted(symbols_of([have]), key=str)
        if (restriction := _multiple_where([symbol], divides)) is not None
    ]
    united = [pair for pair in _apart(parts, have) if divides({pair[0]: Dim.of(pair[1])})]
    axes = zip(map(_symbol, wanted), map(_symbol, node.input(0).shape), strict=False)
    united = [pair for pair in axes if pair in united][:1] or united  # those of one axis first
    found = found or [(symbol, SameAs(other)) for symbol, other in united]
    return found[0] if len(found) == 1 else None


def _apart(left: Extent, right: Extent) -> Iterator[tuple[Symbol, Symbol]]:
    """Pairs of a symbol that only the left extent has, and one of the right: first those that the
    right has alone.
    """
    ours, theirs = symbols_of([left]), symbols_of([right])
    last = sorted(theirs, key=lambda symbol: (symbol in ours, str(symbol)))
    return pairs_of(sorted(ours - theirs, key=str), last)


def _divides(have: Extent, parts: Extent, multiples: dict[Symbol, Extent]) -> bool:
    return dim.exact_quotient(substitute(have, multiples), substitute(parts, multiples)) is not None
