"""Functions of extents beside the operators: products, minima, quotients that are rounded up or
exact.
"""

from __future__ import annotations

from .atoms import Minimum
from .polynomial import Dim, Extent, extent_of, terms_of
from .ranges import is_nonnegative
from .terms import Sum, Term, multiplied


def product(extents: tuple[Extent, ...] | list[Extent]) -> Extent:
    """The number of elements of a shape."""
    total: Extent = 1
    for extent in extents:
        total = total * extent
    return total


def minimum(left: Extent, right: Extent) -> Extent:
    """The smaller extent; decided now where the ranges decide it."""
    if is_nonnegative(right - left):
        return left
    if is_nonnegative(left - right):
        return right
    first, second = sorted((left, right), key=str)
    return Dim.of(Minimum(first, second))


def maximum(left: Extent, right: Extent) -> Extent:
    """The larger extent."""
    return -minimum(-left, -right)


def ceil_div(extent: Extent, divisor: int) -> Extent:
    """Smallest integer that is at least extent / divisor."""
    return (extent + (divisor - 1)) // divisor


def truncated_quotient(extent: Extent, divisor: int) -> Extent:
    """extent / divisor, rounded towards zero; ``divisor`` is positive."""
    return maximum(extent, 0) // divisor - maximum(-extent, 0) // divisor


def exact_quotient(numerator: Extent, divisor: Extent) -> Extent | None:
    """numerator / divisor where that is a polynomial, else None (used for the -1 of reshape): long
    division, the largest monomial first.
    """
    if divisor == 0:
        return None
    if numerator == divisor:
        return 1
    terms = terms_of(divisor)
    leading = min(terms, key=_rank)
    rest: Sum = dict(terms_of(numerator))
    result: Sum = {}
    while rest:
        term = _quotient_of_terms(min(rest.items(), key=_rank), leading)
        if term is None:
            return None
        result[term[0]] = term[1]
        for monomial, value in multiplied(terms, (term,)).items():
            rest[monomial] = rest.get(monomial, 0) - value
        rest = {monomial: value for monomial, value in rest.items() if value}
    return extent_of(result)


def _rank(term: Term) -> tuple[int, tuple[str, ...]]:
    """The place among monomials: of higher degree, then more of the first atoms, is first. A product
    with one monomial keeps this order.
    """
    return -len(term[0]), tuple(map(str, term[0]))


def _quotient_of_terms(numerator: Term, divisor: Term) -> Term | None:
    """One term by another where no atom is left below."""
    rest = list(numerator[0])
    for atom in divisor[0]:
        if atom not in rest:
            return None
        rest.remove(atom)
    return None if numerator[1] % divisor[1] else (tuple(rest), numerator[1] // divisor[1])
