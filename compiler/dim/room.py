"""The largest and the smallest value of an extent where some of its symbols run from 0 to bounds:
extents over the other symbols.

Safe, not always tight: each term takes the ends that it needs by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from .arithmetic import minimum
from .atoms import Atom, Minimum, Quotient, Remainder, Symbol
from .polynomial import Dim, Extent
from .ranges import is_nonnegative


def largest(extent: Extent, bounds: Mapping[Symbol, Extent]) -> Extent:
    """An extent that is at least ``extent`` wherever 0 <= symbol <= bounds[symbol]; the extent
    itself if it holds none of the symbols. ValueError if a product has a factor of unknown sign.
    """
    return _end(extent, bounds, True)


def _end(extent: Extent, bounds: Mapping[Symbol, Extent], is_high: bool) -> Extent:
    if isinstance(extent, int) or extent.symbols().isdisjoint(bounds):
        return extent
    total: Extent = 0
    for atoms, factor in extent.terms:
        term: Extent = factor
        for atom in atoms:
            end = _end_of_atom(atom, bounds, is_high == (factor > 0))
            if len(atoms) > 1 and not is_nonnegative(_end_of_atom(atom, bounds, False)):
                raise ValueError(f"{extent} has no bound: {atom} may be negative")
            term = term * end
        total = total + term
    return total


def _end_of_atom(atom: Atom, bounds: Mapping[Symbol, Extent], is_high: bool) -> Extent:
    match atom:
        case Symbol() if atom in bounds:
            return bounds[atom] if is_high else 0
        case Quotient(numerator, divisor):
            return _end(numerator, bounds, is_high) // divisor
        case Remainder(numerator, divisor) if not numerator.symbols().isdisjoint(bounds):
            return divisor - 1 if is_high else 0
        case Minimum(left, right):
            return minimum(_end(left, bounds, is_high), _end(right, bounds, is_high))
        case _:
            return Dim.of(atom)
