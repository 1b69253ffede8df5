"""The numbers of a free dim for which an extent, or a pair of them, is as a node needs it: functions of
extents alone. What they give is a symbol and what it may be, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product as pairs_of
from typing import TypeAlias

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Minimum, Symbol, substitute, symbols_of

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


def where_number(have: Extent, want: Extent) -> tuple[Symbol, int] | None:
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


def where_equal(left: Extent, right: Extent) -> tuple[Symbol, MultipleOf | SameAs] | None:
    """What makes two extents equal that are not so for every number."""
    if left == right or not (isinstance(left, Dim) and isinstance(right, Dim)):
        return None
    shared = sorted(symbols_of([left]) & symbols_of([right]), key=str)
    return multiple_where(
        shared, lambda multiples: substitute(left, multiples) == substitute(right, multiples)
    ) or _where_same(left, right)


def where_numbers(left: Extent, right: Extent) -> tuple[Symbol, int | range | AtLeast] | None:
    """The numbers of the only symbol with which two extents are equal, if they lie side by side:
    (h // 8) ^ 2 is 16 for h from 32 to 39, min(n, 2) is 2 from 2 on.
    """
    apart = left - right
    tries = numbers_tried(apart)
    if tries is None:
        return None
    symbol, tried = tries
    numbers = [number for number in tried if dim.evaluate(apart, {symbol.name: number}) == 0]
    if not numbers or len(numbers) != numbers[-1] - numbers[0] + 1:
        return None
    if numbers[-1] == tried[-1]:
        return _where_all_but_ends(apart, symbol, numbers[0])
    return symbol, numbers[0] if len(numbers) == 1 else range(numbers[0], numbers[-1] + 1)


def _where_all_but_ends(
    apart: Extent, symbol: Symbol, least: int
) -> tuple[Symbol, range | AtLeast] | None:
    """The numbers of a symbol from ``least`` on, where it is proved that the difference is 0 for all
    of them, or for all but the largest: an axis that a Slice turns round as TensorFlow's exporter
    writes it, from 10^9 down to -10^9, loses the first of 10^9 elements.
    """
    assert isinstance(symbol.hi, int)
    if _is_zero(apart, symbol, least, symbol.hi) and least > symbol.lo:
        return symbol, AtLeast(least)
    if least < symbol.hi and _is_zero(apart, symbol, least, symbol.hi - 1):
        return symbol, range(least, symbol.hi)
    return None


def _is_zero(extent: Extent, symbol: Symbol, low: int, high: int) -> bool:
    return substitute(extent, {symbol: dim.symbol(symbol.name, low, high)}) == 0


def _where_same(left: Dim, right: Dim) -> tuple[Symbol, SameAs] | None:
    """The symbol of one extent that must be what a symbol of the other is, or so many times that:
    dims that are multiples have symbols of their parts.
    """
    for times, (a, b) in pairs_of((1, *FACTORS), ((left, right), (right, left))):
        for symbol, other in pairs_apart(a, b):
            if substitute(a, {symbol: Dim.of(other) * times}) == b:
                return symbol, SameAs(other, times)
    return None


def multiple_where(
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


def where_at_least(extent: Extent) -> tuple[Symbol, AtLeast] | None:
    """The only symbol of an extent, and its numbers from which on it is proved to be 0 or more."""
    symbols = symbols_of([extent])
    if len(symbols) != 1 or dim.is_nonnegative(extent):
        return None
    (symbol,) = symbols
    if not isinstance(symbol.hi, int):
        return None
    for least in range(symbol.lo + 1, min(symbol.hi, LARGEST_LEAST) + 1):
        narrowed = dim.symbol(symbol.name, least, symbol.hi)
        if dim.is_nonnegative(substitute(extent, {symbol: narrowed})):
            return symbol, AtLeast(least)
    return None


def where_tried(extent: Extent) -> tuple[Symbol, AtLeast | range] | None:
    """The only symbol of an extent, and its first or last numbers, if for these alone of those that
    are tried it is 0 or more.
    """
    found = numbers_tried(extent)
    if found is None:
        return None
    symbol, tried = found
    fits = [dim.evaluate(extent, {symbol.name: number}) >= 0 for number in tried]
    count = sum(fits)
    if 0 < count < len(tried) and all(fits[:count]):
        return symbol, tried[:count]
    return _from_on(symbol, tried, fits)


def where_one(extent: Extent) -> tuple[Symbol, AtLeast] | None:
    """The only symbol of an extent, and its numbers from which on it is 1, so that it broadcasts: the
    last element of an axis that small numbers leave empty.
    """
    found = numbers_tried(extent)
    if found is None:
        return None
    symbol, tried = found
    return _from_on(symbol, tried, [dim.evaluate(extent, {symbol.name: n}) == 1 for n in tried])


def _from_on(symbol: Symbol, tried: range, fits: list[bool]) -> tuple[Symbol, AtLeast] | None:
    """The numbers from which on all fit, if others do not."""
    count = sum(fits)
    is_end = 0 < count < len(tried) and all(fits[-count:])
    return (symbol, AtLeast(tried[-count])) if is_end else None


def numbers_tried(extent: Extent) -> tuple[Symbol, range] | None:
    """The only symbol of an extent, and its numbers that are tried one by one."""
    symbols = symbols_of([extent])
    if len(symbols) != 1:
        return None
    (symbol,) = symbols
    if not (isinstance(symbol.lo, int) and isinstance(symbol.hi, int)):
        return None
    return symbol, range(max(symbol.lo, 1), min(symbol.hi, LARGEST_LEAST) + 1)


def only_symbol(extent: Extent) -> Symbol | None:
    """The symbol that an extent is."""
    atom = _only_atom(extent)
    return atom if isinstance(atom, Symbol) else None


def _only_atom(extent: Extent) -> object:
    if not isinstance(extent, Dim) or len(extent.terms) != 1:
        return None
    ((atoms, factor),) = extent.terms
    return atoms[0] if factor == 1 and len(atoms) == 1 else None


def cut_at(extent: Extent, symbol: Symbol) -> int | None:
    """The number c where an extent is min(c, symbol)."""
    atom = _only_atom(extent)
    if not isinstance(atom, Minimum):
        return None
    parts = {type(part): part for part in (atom.left, atom.right)}
    limit, other = parts.get(int), parts.get(Dim)
    return limit if isinstance(limit, int) and limit > 1 and other == Dim.of(symbol) else None


def pairs_apart(left: Extent, right: Extent) -> Iterator[tuple[Symbol, Symbol]]:
    """Pairs of a symbol that only the left extent has, and one of the right: first those that the
    right has alone.
    """
    ours, theirs = symbols_of([left]), symbols_of([right])
    last = sorted(theirs, key=lambda symbol: (symbol in ours, str(symbol)))
    return pairs_of(sorted(ours - theirs, key=str), last)
