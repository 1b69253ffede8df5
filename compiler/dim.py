"""Extents and indices: integer polynomials in ranged symbols, kept in one canonical form.

An extent is an ``int`` or a ``Dim``; arithmetic on either gives an ``int`` whenever the result is
constant. The same algebra serves tensor shapes, loop indices, buffer offsets and memory sizes, so
what is proved here (ranges, divisibility) serves them all. Two equal polynomials compare equal;
``str`` and ``dim_text.parse_extent`` are inverses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from typing import TypeAlias

Extent: TypeAlias = "int | Dim"


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
Monomial: TypeAlias = tuple[Atom, ...]


class Dim:
    """A polynomial with integer coefficients: ``terms`` maps a sorted product of atoms to its
    coefficient.

    Terms stand in the order of ``_monomial_key``, the constant last. What is asked often is kept in
    the private slots.
    """

    __slots__ = ("_bounds", "_has_remainder", "_hash", "_symbols", "_text", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text = ""
        self._symbols: frozenset[Symbol] | None = None
        self._bounds: tuple[int | None, int | None] | None = None
        self._has_remainder: bool | None = None

    # -- canonical form ----------------------------------------------------------------------------

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
            parts = []
            for atoms, factor in self.terms:
                product = _product_text(atoms, factor != 1)
                if not atoms:
                    parts.append(str(factor))
                elif factor == 1:
                    parts.append(product)
                else:
                    parts.append(f"{factor}*{product}")
            self._text = " + ".join(parts)
        return self._text

    __repr__ = __str__

    # -- arithmetic --------------------------------------------------------------------------------

    def __add__(self, other: Extent) -> Extent:
        if not isinstance(other, Dim):
            return self._shifted(int(other))
        total = dict(self.terms)
        for atoms, factor in other.terms:
            total[atoms] = total.get(atoms, 0) + factor
        return _canonical(total, self.has_remainder or other.has_remainder)

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
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                atoms = tuple(sorted(left + right, key=str)) if left and right else left or right
                total[atoms] = total.get(atoms, 0) + a * b
        return _canonical(total, self.has_remainder or other.has_remainder)

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
        return _divide(self, divisor)[0]

    def __mod__(self, divisor: int) -> Extent:
        return _divide(self, divisor)[1]

    # -- queries -----------------------------------------------------------------------------------

    @property
    def has_remainder(self) -> bool:
        """Whether a remainder is a factor of a term."""
        if self._has_remainder is None:
            self._has_remainder = any(
                isinstance(atom, Remainder) for atoms, _ in self.terms for atom in atoms
            )
        return self._has_remainder

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
            for atoms, _ in _terms(item):
                for atom in atoms:
                    match atom:
                        case Symbol():
                            found.add(atom)
                        case Minimum(left, right):
                            stack += [left, right]
                        case _:
                            stack.append(atom.numerator)
        return frozenset(found)


def symbol(name: str, lo: int = 0, hi: Extent | None = None) -> Dim:
    """A new symbol as a Dim."""
    return Dim.of(Symbol(name, lo, hi))


def _product_text(atoms: Monomial, has_factor: bool) -> str:
    """A product; a quotient or remainder behind another factor stands in brackets, since
    9*(n)//9 would read as n.
    """
    parts = [
        f"({a})" if isinstance(a, Quotient | Remainder) and (has_factor or place) else str(a)
        for place, a in enumerate(atoms)
    ]
    return "*".join(parts)


def _terms(extent: Extent) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(extent, Dim):
        return extent.terms
    return (((), int(extent)),) if extent else ()


@lru_cache(maxsize=1 << 16)
def _monomial_key(atoms: Monomial) -> tuple[bool, int, str]:
    return (not atoms, -len(atoms), "*".join(map(str, atoms)))


def _canonical(total: dict[Monomial, int], has_remainder: bool = True) -> Extent:
    if 0 in total.values():
        total = {atoms: factor for atoms, factor in total.items() if factor}
    if has_remainder:
        total = _recombine(total)
    if not total:
        return 0
    if len(total) == 1 and () in total:
        return total[()]
    if len(total) == 1:
        return Dim(tuple(total.items()))
    return Dim(tuple((atoms, total[atoms]) for atoms in sorted(total, key=_monomial_key)))


def _recombine(total: dict[Monomial, int]) -> dict[Monomial, int]:
    """(x // k) * k + x % k  =>  x,  and  ((x % kj) // k) * k + x % k  =>  x % kj."""
    for atoms, factor in total.items():
        for position, atom in enumerate(atoms):
            if not isinstance(atom, Remainder):
                continue
            rest = atoms[:position] + atoms[position + 1 :]
            for partner, quotient in _quotients_beside(total, rest, factor * atom.divisor):
                if quotient.divisor != atom.divisor or not _is_remainder_of(
                    quotient.numerator, atom
                ):
                    continue
                reduced = {k: v for k, v in total.items() if k not in (atoms, partner)}
                whole = Dim(((rest, factor),)) if rest else factor
                for monomial, value in _terms(quotient.numerator * whole):
                    reduced[monomial] = reduced.get(monomial, 0) + value
                return _recombine({k: v for k, v in reduced.items() if v})
    return total


def _quotients_beside(
    total: dict[Monomial, int], rest: Monomial, factor: int
) -> list[tuple[Monomial, Quotient]]:
    """The monomials factor * rest * quotient."""
    found = []
    for monomial, value in total.items():
        if value == factor and len(monomial) == len(rest) + 1:
            for position, atom in enumerate(monomial):
                if (
                    isinstance(atom, Quotient)
                    and monomial[:position] + monomial[position + 1 :] == rest
                ):
                    found.append((monomial, atom))
    return found


def _is_remainder_of(numerator: Dim, remainder: Remainder) -> bool:
    """Whether a quotient's numerator is x, or x % kj, for the remainder x % k."""
    if numerator == remainder.numerator:
        return True
    if len(numerator.terms) != 1 or numerator.terms[0][1] != 1 or len(numerator.terms[0][0]) != 1:
        return False
    atom = numerator.terms[0][0][0]
    return (
        isinstance(atom, Remainder)
        and atom.numerator == remainder.numerator
        and atom.divisor % remainder.divisor == 0
    )


def _divide(numerator: Dim, divisor: int) -> tuple[Extent, Extent]:
    """(quotient, remainder) of floor division by a positive constant."""
    if divisor <= 0:
        raise ValueError(f"extents divide by positive constants only, not by {divisor}")
    if divisor == 1:
        return numerator, 0
    exact: Extent = 0
    rest: Extent = 0
    for atoms, factor in numerator.terms:
        whole, left = (
            (factor // divisor, factor % divisor)
            if not atoms or factor % divisor == 0
            else (0, factor)
        )
        if whole:
            exact = exact + (Dim(((atoms, whole),)) if atoms else whole)
        if left:
            rest = rest + (Dim(((atoms, left),)) if atoms else left)
    if isinstance(rest, int):
        return exact + rest // divisor, rest % divisor
    low, high = bounds(rest)
    if low is not None and high is not None and low // divisor == high // divisor:
        return exact + low // divisor, rest - (low // divisor) * divisor
    shared = _shared_divisor(rest, divisor)
    if shared is not None:  # (g h + l) // (g d)  =>  h // d  where 0 <= l < g
        upper, low_part, step = shared
        quotient, remainder = upper // (divisor // step), upper % (divisor // step)
        return exact + quotient, remainder * step + low_part
    if len(rest.terms) == 1 and rest.terms[0][1] == 1 and len(rest.terms[0][0]) == 1:
        atom = rest.terms[0][0][0]
        if isinstance(atom, Quotient):  # (x // a) // b  =>  x // (a * b)
            nested = Quotient(atom.numerator, atom.divisor * divisor)
            return exact + Dim.of(nested), Dim.of(Remainder(rest, divisor))
        if isinstance(atom, Remainder) and atom.divisor % divisor == 0:  # (x % ab) % b  =>  x % b
            return exact + Dim.of(Quotient(rest, divisor)), atom.numerator % divisor
    return exact + Dim.of(Quotient(rest, divisor)), Dim.of(Remainder(rest, divisor))


def _shared_divisor(rest: Dim, divisor: int) -> tuple[Extent, Extent, int] | None:
    """(h, l, g) with rest = g h + l, g > 1 a divisor of ``divisor`` and of every coefficient in
    h, and 0 <= l < g.
    """
    steps = sorted({gcd(factor, divisor) for atoms, factor in rest.terms if atoms} - {1, divisor})
    for step in steps:
        high: Extent = 0
        low: Extent = 0
        for atoms, factor in rest.terms:
            if atoms and factor % step == 0:
                high = high + Dim(((atoms, factor // step),))
            else:
                low = low + (Dim(((atoms, factor),)) if atoms else factor)
        first, last = bounds(low)
        if high != 0 and first is not None and last is not None and first >= 0 and last < step:
            return high, low, step
    return None


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
    if isinstance(divisor, int):
        if divisor == 0:
            return None
        if isinstance(numerator, int):
            return numerator // divisor if numerator % divisor == 0 else None
        if all(factor % divisor == 0 for _, factor in numerator.terms):
            return _canonical({atoms: factor // divisor for atoms, factor in numerator.terms})
        return None
    if numerator == divisor:
        return 1
    if len(divisor.terms) != 1:
        return None
    atoms, factor = divisor.terms[0]
    result: dict[Monomial, int] = {}
    for monomial, value in _terms(numerator):
        rest = list(monomial)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if value % factor:
            return None
        result[tuple(rest)] = value // factor
    return _canonical(result)


def product(extents: tuple[Extent, ...] | list[Extent]) -> Extent:
    """The number of elements of a shape."""
    total: Extent = 1
    for extent in extents:
        total = total * extent
    return total


# -- ranges ----------------------------------------------------------------------------------------


def bounds(extent: Extent) -> tuple[int | None, int | None]:
    """A range that holds every value; None where no bound is known. Safe, not always tight."""
    if isinstance(extent, int):
        return extent, extent
    if extent._bounds is None:
        extent._bounds = _lowest(extent), _negated(_lowest(-extent))
    return extent._bounds


def is_nonnegative(extent: Extent) -> bool:
    """Whether extent >= 0 is proved by the ranges of its symbols."""
    low = _lowest(extent)
    return low is not None and low >= 0


def unproved(conditions: Iterable[Extent]) -> tuple[Extent, ...]:
    """Those conditions (extent >= 0) that the ranges of their symbols do not prove."""
    return tuple(condition for condition in conditions if not is_nonnegative(condition))


def inside(index: Sequence[Extent], shape: Sequence[Extent]) -> tuple[Extent, ...]:
    """Conditions (extent >= 0) that hold where an index lies inside a shape."""
    return tuple(
        condition
        for i, extent in zip(index, shape, strict=True)
        for condition in (i, extent - 1 - i)
    )


def reduced_condition(extent: Extent) -> Extent:
    """An extent that is >= 0 exactly where the given one is, without terms too small to matter: 16
    p + l - 64 with 0 <= l < 16 becomes p - 4."""
    if isinstance(extent, int):
        return extent
    known = {atom for atoms, _ in extent.terms for atom in atoms}
    for step in sorted(
        {abs(factor) for atoms, factor in extent.terms if atoms} - {1}, reverse=True
    ):
        quotient = extent // step
        if (
            isinstance(quotient, int)
            or {atom for atoms, _ in quotient.terms for atom in atoms} < known
        ):
            return reduced_condition(quotient)
    return extent


def _negated(value: int | None) -> int | None:
    return None if value is None else -value


def _lowest(extent: Extent) -> int | None:
    """A lower bound. A symbol whose range is itself symbolic is replaced by the end that lowers
    the value.
    """
    for _ in range(64):
        if isinstance(extent, int):
            return extent
        replaced = _replace_one_loop_variable(extent)
        if replaced is None:
            break
        extent = replaced
    if isinstance(extent, int):
        return extent
    total = 0
    for atoms, factor in extent.terms:
        low, high = 1, 1
        bounded = True
        for atom in atoms:
            a, b = _atom_bounds(atom)
            if a is None or (b is None and (a < 0 or not bounded)):
                return None
            if low < 0:
                return None  # products of possibly negative factors are not needed
            low, bounded = low * a, bounded and b is not None
            high = high * b if bounded and b is not None else 0
        if factor > 0:
            total += factor * low
        elif bounded:
            total += factor * high
        else:
            return None
    return total


def _replace_one_loop_variable(extent: Dim) -> Extent | None:
    for atoms, _ in extent.terms:
        for atom in atoms:
            if not (isinstance(atom, Symbol) and isinstance(atom.hi, Dim)):
                continue
            if any(isinstance(a, Quotient | Remainder | Minimum) and atom in Dim.of(a).symbols()
                   for monomial, _ in extent.terms for a in monomial):  # fmt: skip
                continue
            slope = [(m, f) for m, f in extent.terms if atom in m]
            if all(len(m) == 1 for m, _ in slope):
                end: Extent = atom.lo if slope[0][1] > 0 else atom.hi
                return substitute(extent, {atom: end})
    return None


def _atom_bounds(atom: Atom) -> tuple[int | None, int | None]:
    match atom:
        case Symbol(_, lo, hi):
            return lo, (bounds(hi)[1] if isinstance(hi, Dim) else hi)
        case Quotient(numerator, divisor):
            low, high = bounds(numerator)
            return (None if low is None else low // divisor), (
                None if high is None else high // divisor
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
            return low, (min(highs) if highs else None)


# -- substitution and evaluation -------------------------------------------------------------------


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
