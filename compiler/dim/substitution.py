"""Symbols of extents, and other extents or numbers in their places."""

from __future__ import annotations

from collections.abc import Mapping

from .arithmetic import minimum
from .atoms import Atom, Minimum, Quotient, Remainder, Symbol
from .polynomial import Dim, Extent


def substitute(extent: Extent, values: Mapping[Symbol, Extent]) -> Extent:
    """The extent with symbols replaced, in canonical form again."""
    if isinstance(extent, int) or extent.symbols().isdisjoint(values):
        return extent
    total: Extent = 0
    for atoms, factor in extent.terms:
        term: Extent = factor
        for atom in atoms:
            term = term * _substitute_atom(atom, values)
        total = total + term
    return total


def _substitute_atom(atom: Atom, values: Mapping[Symbol, Extent]) -> Extent:
    match atom:
        case Symbol():
            return values.get(atom, Dim.of(atom))
        case Quotient(numerator, divisor):
            return substitute(numerator, values) // divisor
        case Remainder(numerator, divisor):
            return substitute(numerator, values) % divisor
        case Minimum(left, right):
            return minimum(substitute(left, values), substitute(right, values))


def evaluate(extent: Extent, values: Mapping[str, int]) -> int:
    """The number, given each symbol's value by name. KeyError names a symbol without a value."""
    if isinstance(extent, int):
        return extent
    total = 0
    for atoms, factor in extent.terms:
        for atom in atoms:
            match atom:
                case Symbol(name):
                    factor *= values[name]
                case Quotient(numerator, divisor):
                    factor *= evaluate(numerator, values) // divisor
                case Remainder(numerator, divisor):
                    factor *= evaluate(numerator, values) % divisor
                case Minimum(left, right):
                    factor *= min(evaluate(left, values), evaluate(right, values))
        total += factor
    return total


def symbols_of(extents: tuple[Extent, ...] | list[Extent]) -> frozenset[Symbol]:
    """All symbols in a shape."""
    return frozenset().union(*(extent.symbols() for extent in extents if isinstance(extent, Dim)))
