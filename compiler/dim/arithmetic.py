"""Functions of extents beside the operators: products, minima, quotients that are rounded up or
exact.
"""

from __future__ import annotations

from .atoms import Minimum
from .polynomial import Dim, Extent, extent_of, terms_of
from .ranges import is_nonnegative
from .terms import Sum


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


def exact_quotient(numerator: Extent, divisor: Extent) -> Extent | None:
    """numerator / divisor where that is a polynomial, else None (used for the -1 of reshape)."""
    if divisor == 0:
        return None
    if numerator == divisor:
        return 1
    ((atoms, factor), *others) = terms_of(divisor)
    if others:
        return None
    result: Sum = {}
    for monomial, value in terms_of(numerator):
        rest = list(monomial)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if value % factor:
            return None
        result[tuple(rest)] = value // factor
    return extent_of(result)
