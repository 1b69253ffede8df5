"""What the ranges of symbols prove about an extent: bounds that hold for every value.

They are safe, not always tight: None where no bound is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from .atoms import Atom, Minimum, Quotient, Remainder, Symbol
from .terms import Monomial, Sum, Term, canonical

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


@lru_cache(maxsize=1 << 16)
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
    low = _sum_of_least(extent.terms)
    quotients = [term for term in extent.terms if _is_of_whole_quotient(term)]
    falling = [term for term in quotients if term[1] < 0]
    for opened in (falling, quotients if len(quotients) > len(falling) else []):
        if opened and (low is None or low < 0):
            other = _sum_of_least(_without_quotients(extent, opened))
            low = other if low is None else low if other is None else max(low, other)
    return low


def _is_of_whole_quotient(term: Term) -> bool:
    """Whether a term is a d (x // d)."""
    match term:
        case ((Quotient(_, divisor),), factor):
            return factor % divisor == 0
    return False


def _without_quotients(extent: Dim, quotients: Iterable[Term]) -> tuple[Term, ...]:
    """The terms of the same extent, with a x - a (x % d) for those of its terms that are given, each
    an a d (x // d).
    """
    total: Sum = dict(extent.terms)
    for atoms, factor in quotients:
        (quotient,) = atoms
        assert isinstance(quotient, Quotient)
        numerator, divisor = quotient.numerator, quotient.divisor
        rest = numerator % divisor
        total[atoms] -= factor
        for terms, times in (
            (numerator.terms, factor // divisor),
            ((((), rest),) if isinstance(rest, int) else rest.terms, -(factor // divisor)),
        ):
            for monomial, number in terms:
                total[monomial] = total.get(monomial, 0) + number * times
    return canonical(total)


def _sum_of_least(terms: Iterable[Term]) -> int | None:
    """The sum of what each term is at least."""
    total = 0
    for atoms, factor in terms:
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
