"""An extent that is no constant: a polynomial over atoms, in canonical form, and its operators.

``+ - *`` of extents and ``// %`` by a positive constant give extents; what the ranges of symbols
decide is decided at once ((16 p + l) // 16 is p for 0 <= l < 16).
"""

from __future__ import annotations

from math import gcd
from typing import TypeAlias

from .atoms import Atom, Minimum, Quotient, Remainder, Symbol
from .ranges import Range, bounds, lowest
from .terms import Sum, Term, canonical, multiplied, only_atom, text_of

Extent: TypeAlias = "int | Dim"


class Dim:
    """A polynomial with integer coefficients: ``terms`` holds each sorted product of atoms with
    its coefficient, as ``terms.canonical`` gives them.

    What is asked often is kept in the private slots.
    """

    __slots__ = ("_bounds", "_has_remainder", "_hash", "_symbols", "_text", "terms")

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text = ""
        self._symbols: frozenset[Symbol] | None = None
        self._bounds: Range | None = None
        self._has_remainder: bool | None = None

    @staticmethod
    def of(atom: Atom) -> Dim:
        return Dim((((atom,), 1),))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Dim) and self._hash == other._hash and self.terms == other.terms
        )

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if not self._text:
            self._text = text_of(self.terms)
        return self._text

    __repr__ = __str__

    # -- arithmetic --------------------------------------------------------------------------------

    def __add__(self, other: Extent) -> Extent:
        if not isinstance(other, Dim):
            return self._shifted(int(other))
        total = dict(self.terms)
        for atoms, factor in other.terms:
            total[atoms] = total.get(atoms, 0) + factor
        return extent_of(total, self.has_remainder or other.has_remainder)

    __radd__ = __add__

    def __neg__(self) -> Extent:
        return self * -1

    def __sub__(self, other: Extent) -> Extent:
        return self + (-other)

    def __rsub__(self, other: Extent) -> Extent:
        return -self + other

    def __mul__(self, other: Extent) -> Extent:
        if not isinstance(other, Dim):
            return self._scaled(int(other))
        total = multiplied(self.terms, other.terms)
        return extent_of(total, self.has_remainder or other.has_remainder)

    __rmul__ = __mul__

    def _shifted(self, number: int) -> Extent:
        """self + number: only the constant changes."""
        if number == 0:
            return self
        atoms, last = self.terms[-1]
        if atoms:
            return Dim((*self.terms, ((), number)))
        number += last
        return Dim((*self.terms[:-1], ((), number))) if number else Dim(self.terms[:-1])

    def _scaled(self, number: int) -> Extent:
        """self * number: the terms stay apart and in order."""
        if number == 1:
            return self
        return Dim(tuple((atoms, factor * number) for atoms, factor in self.terms)) if number else 0

    def __floordiv__(self, divisor: int) -> Extent:
        return _divided(self, divisor)[0]

    def __mod__(self, divisor: int) -> Extent:
        return _divided(self, divisor)[1]

    # -- queries -----------------------------------------------------------------------------------

    @property
    def has_remainder(self) -> bool:
        """Whether a remainder is a factor of a term."""
        if self._has_remainder is None:
            self._has_remainder = any(
                isinstance(atom, Remainder) for atoms, _ in self.terms for atom in atoms
            )
        return self._has_remainder

    def bounds(self) -> Range:
        """A range that holds every value (see ``ranges``)."""
        if self._bounds is None:
            lowest_negative = lowest(-self)
            self._bounds = lowest(self), None if lowest_negative is None else -lowest_negative
        return self._bounds

    def symbols(self) -> frozenset[Symbol]:
        """All symbols that occur, at any depth (not those of their ranges)."""
        if self._symbols is None:
            self._symbols = self._found_symbols()
        return self._symbols

    def _found_symbols(self) -> frozenset[Symbol]:
        found: set[Symbol] = set()
        stack: list[Extent] = [self]
        while stack:
            item = stack.pop()
            for atoms, _ in terms_of(item):
                for atom in atoms:
                    match atom:
                        case Symbol():
                            found.add(atom)
                        case Minimum(left, right):
                            stack += [left, right]
                        case _:
                            stack.append(atom.numerator)
        return frozenset(found)

    def split(self, symbol: Symbol) -> tuple[int, Extent] | None:
        """(f, rest) with self = f * symbol + rest, where the rest holds no such symbol; None if
        self is no such sum.
        """
        own = [term for term in self.terms if symbol in term[0]]
        if len(own) != 1 or len(own[0][0]) != 1:
            return None
        rest = _of_terms(tuple(term for term in self.terms if term is not own[0]))
        return None if isinstance(rest, Dim) and symbol in rest.symbols() else (own[0][1], rest)


def symbol(name: str, lo: int = 0, hi: Extent | None = None) -> Dim:
    """A new symbol as a Dim."""
    return Dim.of(Symbol(name, lo, hi))


def extent_of(total: Sum, has_remainder: bool = True) -> Extent:
    """The extent that a sum is; ``has_remainder`` says whether a remainder may be a factor in
    it.
    """
    return _of_terms(canonical(total, has_remainder))


def terms_of(extent: Extent) -> tuple[Term, ...]:
    """The terms of an extent; a constant has one or none."""
    if isinstance(extent, Dim):
        return extent.terms
    return (((), int(extent)),) if extent else ()


def _of_terms(terms: tuple[Term, ...]) -> Extent:
    """The extent of canonical terms: an int where they are constant."""
    match terms:
        case ():
            return 0
        case (((), number),):
            return number
    return Dim(terms)


# -- division --------------------------------------------------------------------------------------


def _divided(numerator: Dim, divisor: int) -> tuple[Extent, Extent]:
    """(quotient, remainder) of floor division by a positive constant."""
    if divisor <= 0:
        raise ValueError(f"extents divide by positive constants only, not by {divisor}")
    if divisor == 1:
        return numerator, 0
    exact, rest = _whole_and_rest(numerator, divisor)
    if isinstance(rest, int):
        return exact + rest // divisor, rest % divisor
    quotient, remainder = _divided_rest(rest, divisor)
    return exact + quotient, remainder


def _whole_and_rest(numerator: Dim, divisor: int) -> tuple[Extent, Extent]:
    """(q, r) with numerator = q divisor + r, where r holds the terms that do not divide, and what
    is left of the constant.
    """
    whole: list[Term] = []
    rest: list[Term] = []
    for atoms, factor in numerator.terms:
        if not atoms or factor % divisor == 0:
            whole.append((atoms, factor // divisor))
            rest.append((atoms, factor % divisor))
        else:
            rest.append((atoms, factor))
    return (
        extent_of(dict(whole), numerator.has_remainder),
        extent_of(dict(rest), numerator.has_remainder),
    )


def _divided_rest(rest: Dim, divisor: int) -> tuple[Extent, Extent]:
    """(quotient, remainder) where no term divides by itself."""
    low, high = bounds(rest)
    if low is not None and high is not None and low // divisor == high // divisor:
        return low // divisor, rest - (low // divisor) * divisor
    shared = _shared_divisor(rest, divisor)
    if shared is not None:  # (g h + l) // (g d)  =>  h // d  where 0 <= l < g
        upper, low_part, step = shared
        quotient, remainder = upper // (divisor // step), upper % (divisor // step)
        return quotient, remainder * step + low_part
    match only_atom(rest.terms):
        case Quotient(numerator, inner):  # (x // a) // b  =>  x // (a * b)
            return Dim.of(Quotient(numerator, inner * divisor)), Dim.of(Remainder(rest, divisor))
        case Remainder(numerator, inner) if inner % divisor == 0:  # (x % ab) % b  =>  x % b
            return Dim.of(Quotient(rest, divisor)), numerator % divisor
    opened = _opened(rest, divisor)
    remainder = Dim.of(Remainder(rest, divisor)) if opened is rest else opened % divisor
    return Dim.of(Quotient(rest, divisor)), remainder


def _opened(rest: Dim, divisor: int) -> Extent:
    """With the same remainder: f (x % m) in it is f x, where the divisor divides f m."""
    terms: Sum = {}
    for atoms, factor in rest.terms:
        match atoms:
            case (Remainder(numerator, inner),) if factor * inner % divisor == 0:
                parts = multiplied(numerator.terms, (((), factor),))
            case _:
                parts = {atoms: factor}
        for monomial, value in parts.items():
            terms[monomial] = terms.get(monomial, 0) + value
    return rest if terms == dict(rest.terms) else extent_of(terms)


def _shared_divisor(rest: Dim, divisor: int) -> tuple[Extent, Extent, int] | None:
    """(h, l, g) with rest = g h + l, g > 1 a divisor of ``divisor`` and of every coefficient in
    h, and 0 <= l < g.
    """
    steps = sorted({gcd(factor, divisor) for atoms, factor in rest.terms if atoms} - {1, divisor})
    for step in steps:
        high = {
            atoms: factor // step for atoms, factor in rest.terms if atoms and factor % step == 0
        }
        low = extent_of({atoms: factor for atoms, factor in rest.terms if atoms not in high})
        first, last = bounds(low)
        if high and first is not None and last is not None and first >= 0 and last < step:
            return extent_of(high), low, step
    return None
