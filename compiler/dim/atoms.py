"""What the terms of an extent are products of: symbols, and the three functions of extents that
no polynomial expresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .polynomial import Dim, Extent


@dataclass(frozen=True, eq=False)
class Symbol:
    """A named integer with ``lo <= value <= hi``; ``hi`` may be a ``Dim`` (loop variables) or
    None (unbounded).
    """

    name: str
    lo: int = 0
    hi: int | Dim | None = None

    def __str__(self) -> str:
        return self.name

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.lo, self.hi))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Symbol) or self._hash != other._hash:
            return False
        return self.name == other.name and self.lo == other.lo and self.hi == other.hi


@dataclass(frozen=True)
class Quotient:
    """floor(numerator / divisor), for a positive constant divisor."""

    numerator: Dim
    divisor: int

    def __str__(self) -> str:
        return f"({self.numerator})//{self.divisor}"


@dataclass(frozen=True)
class Remainder:
    """numerator - divisor * floor(numerator / divisor), for a positive constant divisor."""

    numerator: Dim
    divisor: int

    def __str__(self) -> str:
        return f"({self.numerator})%{self.divisor}"


@dataclass(frozen=True)
class Minimum:
    """The smaller of two extents."""

    left: Extent
    right: Extent

    def __str__(self) -> str:
        return f"min({self.left}, {self.right})"


Atom: TypeAlias = Symbol | Quotient | Remainder | Minimum
