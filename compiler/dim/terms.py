"""The canonical form of a sum of products of atoms, so that equal polynomials are equal terms.

A sum maps each monomial (a sorted product of atoms; the empty one is the constant's) to its factor.
In its canonical form no factor is 0, a quotient and its remainder that belong together are one, and
the terms stand in the order of degree, then of their text, the constant last.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from .atoms import Atom, Quotient, Remainder

Monomial: TypeAlias = tuple[Atom, ...]
Term: TypeAlias = tuple[Monomial, int]
Sum: TypeAlias = dict[Monomial, int]


def canonical(total: Sum, has_remainder: bool = True) -> tuple[Term, ...]:
    """The terms of a sum; ``has_remainder`` says whether a remainder may be a factor in it."""
    total = _reduced(total, has_remainder)
    if len(total) < 2:
        return tuple(total.items())
    return tuple((atoms, total[atoms]) for atoms in sorted(total, key=_order))


def multiplied(left: Iterable[Term], right: Iterable[Term]) -> Sum:
    """The product of two sums, multiplied out."""
    right = tuple(right)
    total: Sum = {}
    for x, a in left:
        for y, b in right:
            atoms = tuple(sorted(x + y, key=str)) if x and y else x or y
            total[atoms] = total.get(atoms, 0) + a * b
    return total


def text_of(terms: Iterable[Term]) -> str:
    """``2*N*M + N + 1``."""
    parts = []
    for atoms, factor in terms:
        product = _product_text(atoms, factor != 1)
        if not atoms:
            parts.append(str(factor))
        elif factor == 1:
            parts.append(product)
        else:
            parts.append(f"{factor}*{product}")
    return " + ".join(parts)


def _product_text(atoms: Monomial, has_factor: bool) -> str:
    """A product; a quotient or remainder behind another factor stands in brackets, since
    9*(n)//9 would read as n.
    """
    parts = [
        f"({a})" if isinstance(a, Quotient | Remainder) and (has_factor or place) else str(a)
        for place, a in enumerate(atoms)
    ]
    return "*".join(parts)


@lru_cache(maxsize=1 << 16)
def _order(atoms: Monomial) -> tuple[bool, int, str]:
    return (not atoms, -len(atoms), "*".join(map(str, atoms)))


def _reduced(total: Sum, has_remainder: bool) -> Sum:
    if 0 in total.values():
        total = {atoms: factor for atoms, factor in total.items() if factor}
    return _recombined(total) if has_remainder else total


def _recombined(total: Sum) -> Sum:
    """(x // k) * k + x % k  =>  x,  ((x % kj) // k) * k + x % k  =>  x % kj,  and
    x - x % k  =>  (x // k) * k.
    """
    while True:
        if (found := _pair_in(total)) is not None:
            parts, numerator, rest, factor = found
            total = {atoms: value for atoms, value in total.items() if atoms not in parts}
            added = _recombined(multiplied(numerator, ((rest, factor),)))
        elif (cut := _cut_in(total)) is not None:
            added = cut
        else:
            return total
        for atoms, value in added.items():
            total[atoms] = total.get(atoms, 0) + value
        total = {atoms: value for atoms, value in total.items() if value}


def _cut_in(total: Sum) -> Sum | None:
    """What is to be added to a sum that holds -f x r and f (x % k) r, but for the constant in x, so
    that -f k (x // k) r stands in their place.
    """
    for atoms, factor in total.items():
        for position, atom in enumerate(atoms):
            if not isinstance(atom, Remainder):
                continue
            rest = atoms[:position] + atoms[position + 1 :]
            (lead, value), *_ = atom.numerator.terms
            if not rest and total.get(lead) != -factor * value:
                continue
            whole = multiplied(atom.numerator.terms, ((rest, factor),))
            if all(total.get(m) == -value for m, value in whole.items() if m != rest):
                ((place, _),) = multiplied((((_quotient_of(atom),), 1),), ((rest, 1),)).items()
                return {**whole, atoms: -factor, place: -factor * atom.divisor}
    return None


def _quotient_of(remainder: Remainder) -> Quotient:
    """x // k for x % k."""
    match only_atom(remainder.numerator.terms):
        case Quotient(numerator, inner):  # (x // a) // b  =>  x // (a * b)
            return Quotient(numerator, inner * remainder.divisor)
    return Quotient(remainder.numerator, remainder.divisor)


def _pair_in(
    total: Sum,
) -> tuple[tuple[Monomial, Monomial], tuple[Term, ...], Monomial, int] | None:
    """A remainder and its quotient: (both monomials, the numerator, the other atoms, the
    remainder's factor).
    """
    for atoms, factor in total.items():
        for position, atom in enumerate(atoms):
            if not isinstance(atom, Remainder):
                continue
            rest = atoms[:position] + atoms[position + 1 :]
            for partner, quotient in _quotients_beside(total, rest, factor * atom.divisor):
                if quotient.divisor == atom.divisor and _is_remainder_of(quotient, atom):
                    return (atoms, partner), quotient.numerator.terms, rest, factor
    return None


def _quotients_beside(total: Sum, rest: Monomial, factor: int) -> list[tuple[Monomial, Quotient]]:
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


def _is_remainder_of(quotient: Quotient, remainder: Remainder) -> bool:
    """Whether a quotient's numerator is x, or x % kj, for the remainder x % k."""
    if quotient.numerator == remainder.numerator:
        return True
    atom = only_atom(quotient.numerator.terms)
    return (
        isinstance(atom, Remainder)
        and atom.numerator == remainder.numerator
        and atom.divisor % remainder.divisor == 0
    )


def only_atom(terms: tuple[Term, ...]) -> Atom | None:
    """The atom that the terms are, if they are nothing else."""
    match terms:
        case (((atom,), 1),):
            return atom
    return None
