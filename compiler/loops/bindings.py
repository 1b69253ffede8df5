"""What symbols stand for while a kernel is interpreted, and the extents that are made of them."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..dim import Atom, Dim, Extent, Minimum, Quotient, Remainder, Symbol

ONE = ""  # the name that stands for 1 in sums of variables


class Bindings(UserDict[str, Any]):
    """Names of symbols and loop variables, each with a number, or with one for every lane."""

    def __init__(self, symbols: Mapping[str, int]) -> None:
        super().__init__({ONE: 1, **symbols})
        self._linear: dict[Extent, tuple[tuple[str, int], ...] | None] = {}

    def extent(self, extent: Extent) -> Any:
        """A number, or one for every lane; KeyError for a name that nothing binds."""
        if isinstance(extent, int):
            return extent
        if extent not in self._linear:
            self._linear[extent] = _linear(extent)
        linear = self._linear[extent]
        if linear is None:
            return self._polynomial(extent)
        total: Any = 0
        for name, factor in linear:
            total = total + factor * self.data[name]
        return total

    def _polynomial(self, extent: Dim) -> Any:
        total: Any = 0
        for atoms, factor in extent.terms:
            term: Any = factor
            for atom in atoms:
                term = term * self._atom(atom)
            total = total + term
        return total

    def _atom(self, atom: Atom) -> Any:
        match atom:
            case Symbol(name):
                return self.data[name]
            case Quotient(numerator, divisor):
                return self.extent(numerator) // divisor
            case Remainder(numerator, divisor):
                return self.extent(numerator) % divisor
            case Minimum(left, right):
                return np.minimum(self.extent(left), self.extent(right))


def _linear(extent: Dim) -> tuple[tuple[str, int], ...] | None:
    """A sum of variables as names and factors; None if it is more than that."""
    found = []
    for atoms, factor in extent.terms:
        match atoms:
            case ():
                found.append((ONE, factor))
            case (Symbol(name),):
                found.append((name, factor))
            case _:
                return None
    return tuple(found)


__all__ = ["Bindings"]
