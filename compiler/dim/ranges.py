"""What the ranges of symbols prove about an extent: bounds that hold for every value.

They are safe, not always tight: None where no bound is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .atoms import Atom, Minimum, Quotient, Remainder, Symbol
from .terms import Monomial

if TYPE_CHECKING:
    from .polynomial import Dim, Extent

Range: TypeAlias = tuple[int | None, int | None]


def bounds(extent: Extent) -> Range:
    """A range that holds every value; None where no bound is known. Safe, not always tight."""
    return (extent, extent) if isinstance(extent, int) else extent.bounds()


def is_nonnegative(extent: Extent) -> bool:
    """Whether extent >= 0 is proved by the ranges of its symbols."""
    low = lowest(extent)
    return low is not None and low >= 0


def lowest(extent: Extent) -> int | None:
    """A lower bound. A symbol whose range is itself symbolic is replaced by the end that lowers
    the value.
    """
    for _ in range(64):
        if isinstance(extent, int):
            return extent
        replaced = _at_an_end(extent)
        if replaced is None:
            break
        extent = replaced
    if isinstance(extent, int):
        return extent
    low = _sum_of_least(extent)
    for signs in ((-1,), (-1, 1)):
        by_remainders = _without_quotients(extent, signs) if low is None or low < 0 else None
        if by_remainders is not None:
            other = (
                by_remainders if isinstance(by_remainders, int) else _sum_of_least(by_remainders)
            )
            low = other if low is None else low if other is None else max(low, other)
    return low


def _without_quotients(extent: Dim, signs: tuple[int, ...]) -> Extent | None:
    """The same extent, with x - x % d for a d (x // d) whose factor has one of the signs; None if
    it has no such term.
    """
    changed: Extent = extent
    for atoms, factor in extent.terms:
        match atoms:
            case (Quotient(numerator, divisor) as quotient,) if factor % divisor == 0:
                if (1 if factor > 0 else -1) in signs:
                    whole = factor // divisor
                    changed = changed - type(extent).of(quotient) * factor
                    changed = changed - numerator % divisor * whole + numerator * whole
    return None if changed is extent else changed


def _sum_of_least(extent: Dim) -> int | None:
    """The sum of what each term is at least."""
    total = 0
    for atoms, factor in extent.terms:
        low, high = _range_of_product(atoms)
        end = low if factor > 0 else high
        if end is None:
            return None
        total += factor * end
    return total


def _at_an_end(extent: Dim) -> Extent | None:
    """The extent where one symbol of symbolic range has the end that lowers it; None if it has
    no such symbol.
    """
    for atoms, _ in extent.terms:
        for atom in atoms:
            match atom:
                case Symbol(_, lo, hi) if not isinstance(hi, int | None):
                    parts = extent.split(atom)
                    if parts is not None:
                        factor, rest = parts
                        return rest + factor * (lo if factor > 0 else hi)
    return None


def _range_of_product(atoms: Monomial) -> Range:
    """Of several factors, one of which may be negative, no range is given: none is needed."""
    if len(atoms) == 1:
        return _range_of_atom(atoms[0])
    low, high = 1, 1
    is_bounded = True
    for atom in atoms:
        first, last = _range_of_atom(atom)
        if first is None or first < 0:
            return None, None
        low *= first
        is_bounded = is_bounded and last is not None
        high *= last or 0
    return low, high if is_bounded else None


def _range_of_atom(atom: Atom) -> Range:
    match atom:
        case Symbol(_, lo, hi):
            return lo, hi if hi is None else bounds(hi)[1]
        case Quotient(numerator, divisor):
            low, high = bounds(numerator)
            return (
                None if low is None else low // divisor,
                None if high is None else high // divisor,
            )
        case Remainder(numerator, divisor):
            low, high = bounds(numerator)
            if low is not None and high is not None and low >= 0 and high < divisor:
                return low, high
            return 0, divisor - 1
        case Minimum(left, right):
            (a, b), (c, d) = bounds(left), bounds(right)
            low = None if a is None or c is None else min(a, c)
            highs = [x for x in (b, d) if x is not None]
            return low, min(highs, default=None)
