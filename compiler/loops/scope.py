"""What is known at a place inside a kernel, and what follows from it: ranges of variables,
conditions that hold.

``proves`` is safe: what it proves holds on every run. ``counterexample`` finds corners of the loops
where an extent is negative; what neither decides is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, product
from math import prod

from .. import dim
from ..dim import Dim, Extent, Minimum, Quotient, Symbol
from .ir import LANE, LANES

DEPTH = 4  # of proofs that take quotients, minima and conditions apart
MOST_POINTS = 512  # that a proof by trying all values may try
FREE = (0, 1, 1000)  # how far above their least values a search for a counterexample sets free dims


@dataclass(frozen=True)
class Binding:
    """A name's symbol with the range it is bound to; ``extent`` is a loop's extent or a let's
    value (None: free).
    """

    symbol: Symbol
    extent: Extent | None = None
    is_loop: bool = False
    is_item: bool = False  # the loop over work items


@dataclass(frozen=True, eq=False)
class Scope:
    """The names bound around a place, and extents that are >= 0 there.

    Equal scopes inside one are one object, so that what was proved for a statement need not be
    proved for the next.
    """

    bindings: Mapping[str, Binding] = field(default_factory=dict)
    facts: tuple[Extent, ...] = ()
    _inner: dict[Binding | tuple[Extent, ...], Scope] = field(default_factory=dict)
    _proved: dict[Extent, bool] = field(default_factory=dict)
    _open: dict[Extent, int] = field(default_factory=dict)  # the most steps that proved nothing
    _canonical: dict[Extent, Extent] = field(default_factory=dict)

    def bound(self, binding: Binding) -> Scope:
        """The scope with one more name."""
        if binding not in self._inner:
            name, low, high = binding.symbol.name, binding.symbol.lo, binding.symbol.hi
            symbol = Symbol(name, low, None if high is None else self.canonical(high))
            self._inner[binding] = Scope(
                {**self.bindings, name: replace(binding, symbol=symbol)}, self.facts
            )
        return self._inner[binding]

    def under(self, conditions: tuple[Extent, ...]) -> Scope:
        """The scope where conditions hold as well."""
        if conditions not in self._inner:
            new = tuple(part for c in conditions for part in _without_minima(self.canonical(c)))
            self._inner[conditions] = Scope(self.bindings, (*self.facts, *new))
        return self._inner[conditions]

    def canonical(self, extent: Extent) -> Extent:
        """The extent over the symbols as they are bound here, whatever ranges it claims for
        them.
        """
        if isinstance(extent, int):
            return extent
        if extent not in self._canonical:
            values = {
                s: Dim.of(self.bindings[s.name].symbol)
                for s in extent.symbols()
                if s.name in self.bindings
            }
            changed = {s: d for s, d in values.items() if d.terms[0][0][0] != s}
            self._canonical[extent] = dim.substitute(extent, changed)
        return self._canonical[extent]

    def proves(self, extent: Extent) -> bool:
        """Whether extent >= 0 follows from the ranges that it claims, or from the bindings and
        facts.
        """
        if isinstance(extent, int):
            return extent >= 0
        if extent not in self._proved:
            bound = self.canonical(extent)
            self._proved[extent] = (
                dim.is_nonnegative(extent)
                or any(self._follows(bound, steps) for steps in range(1, DEPTH + 1))
                or self._holds_everywhere(bound)
            )
        return self._proved[extent]

    def _follows(self, extent: Extent, depth: int) -> bool:
        """Whether so many steps prove extent >= 0. Different orders of the same steps lead to the
        same extent, so those that failed are remembered."""
        if isinstance(extent, int):
            return extent >= 0
        if self._open.get(extent, -1) >= depth:
            return False
        if dim.is_nonnegative(extent):
            return True
        ways = chain(((part,) for part in self._weaker_by_facts(extent)), _taken_apart(extent))
        if depth and any(all(self._follows(part, depth - 1) for part in way) for way in ways):
            return True
        self._open[extent] = depth
        return False

    def _holds_everywhere(self, extent: Extent) -> bool:
        """Whether trying each of up to MOST_POINTS values finds extent >= 0, where the facts
        about its variables hold.
        """
        symbols = sorted(dim.symbols_of([extent]), key=lambda s: s.name)
        ranges = [range(s.lo, s.hi + 1) for s in symbols if isinstance(s.hi, int)]
        is_linear = isinstance(extent, int) or all(
            isinstance(atom, Symbol) for atoms, _ in extent.terms for atom in atoms
        )
        if not all(ranges):
            return True  # a loop without steps
        if (
            len(ranges) < len(symbols)
            or prod(map(len, ranges)) > MOST_POINTS
            or (is_linear and not self.facts)
        ):
            return False
        facts = [fact for fact in self.facts if dim.symbols_of([fact]) <= set(symbols)]
        points = (
            {s.name: number for s, number in zip(symbols, point, strict=True)}
            for point in product(*ranges)
        )
        return all(
            dim.evaluate(extent, p) >= 0 or any(dim.evaluate(fact, p) < 0 for fact in facts)
            for p in points
        )

    def _weaker_by_facts(self, extent: Dim) -> Iterator[Extent]:
        """extent - k fact >= 0 and fact >= 0 give extent >= 0; k is such that a variable of both
        goes away.
        """
        factors = dict(extent.terms)
        for fact in self.facts:
            if isinstance(fact, int):
                continue
            times = {
                factors[m] // f for m, f in fact.terms if m and m in factors and factors[m] % f == 0
            }
            for k in sorted(times):
                if k > 0:
                    yield extent - fact * k

    def counterexample(self, extent: Extent) -> dict[str, int] | None:
        """Values at which a run comes here and finds extent < 0, from corners of the loops
        (every lane); None if none is.
        """
        used = dim.symbols_of([extent, *self.facts])
        lanes = range(LANES) if LANE in used else range(1)
        for is_last_item, above, lane in product((False, True), FREE, lanes):
            values = self._corner(extent, is_last_item, above, lane)
            if values is not None and dim.evaluate(extent, values) < 0:
                return values
        return None

    def _corner(
        self, extent: Extent, is_last_item: bool, above: int, lane: int
    ) -> dict[str, int] | None:
        """One place that runs: each loop at the end that lowers the extent; None if no run comes
        there.
        """
        values: dict[str, int] = {}
        for name, binding in self.bindings.items():
            if binding.extent is None:
                high = binding.symbol.hi
                values[name] = binding.symbol.lo + above
                if isinstance(high, int):
                    values[name] = min(values[name], high)
                continue
            number = dim.evaluate(binding.extent, values)
            if not binding.is_loop:
                values[name] = number
            elif number <= 0:
                return None
            elif name == LANE.name:
                values[name] = min(lane, number - 1)
            else:
                at_end = is_last_item if binding.is_item else _falls(extent, name)
                values[name] = number - 1 if at_end else 0
        return values if all(dim.evaluate(fact, values) >= 0 for fact in self.facts) else None


def _falls(extent: Extent, name: str) -> bool:
    """Whether an extent gets smaller as a variable grows (by the signs of the terms that hold
    it).
    """
    if isinstance(extent, int):
        return False
    return (
        sum(
            f
            for atoms, f in extent.terms
            if any(s.name == name for a in atoms for s in Dim.of(a).symbols())
        )
        < 0
    )


def _without_minima(fact: Extent) -> Iterator[Extent]:
    """r + min(a, b) >= 0 is r + a >= 0 and r + b >= 0."""
    stack = [fact]
    while stack:
        extent = stack.pop()
        found = None if isinstance(extent, int) else next(
            ((atoms, f) for atoms,
             f in extent.terms if f > 0 and len(atoms) == 1 and isinstance(atoms[0], Minimum)), None
        )  # fmt: skip
        if found is None or isinstance(extent, int):
            yield extent
            continue
        (atom,), factor = found
        assert isinstance(atom, Minimum)
        rest = extent - Dim((found,))
        stack += [rest + atom.right * factor, rest + atom.left * factor]


def _taken_apart(extent: Dim) -> Iterator[tuple[Extent, ...]]:
    """Extents that together give extent >= 0, without one of its quotients, minima or loop
    variables.

    r + x // d >= 0 is r d + x >= 0; r - x // d >= 0 is r d + d - 1 - x >= 0; r - k d (x // d) is at
    least r - k x, and (``_within``) r - f (x // d) >= 0 is a bound on x; r + min(a, b) >= 0 is
    both, r - min(a, b) >= 0 either, of r + a and r + b (r - a and r - b); a variable whose range is
    symbolic stands at the end that lowers the extent; r + f (x // d) >= 0 where r is at least -f m
    and x - d m >= 0.
    """
    for atoms, factor in extent.terms:
        if len(atoms) != 1:
            continue
        rest = extent - Dim(((atoms, factor),))
        match atoms[0]:
            case Quotient(numerator, divisor) if factor == 1:
                yield (rest * divisor + numerator,)
            case Quotient(numerator, divisor) if factor > 1:
                low, _ = dim.bounds(rest)
                if low is not None:
                    yield (numerator + low // factor * divisor,)
            case Quotient(numerator, divisor) if factor == -1:
                yield (rest * divisor + (divisor - 1) - numerator,)
            case Quotient(numerator, divisor) if factor < 0:
                if factor % divisor == 0:
                    yield (rest + numerator * (factor // divisor),)
                yield from _within(rest, -factor, numerator, divisor)
            case Minimum(left, right) if factor > 0:
                yield rest + left * factor, rest + right * factor
            case Minimum(left, right):
                yield (rest + left * factor,)
                yield (rest + right * factor,)
            case Symbol(lo=lo, hi=Dim() as hi) as symbol if symbol not in dim.symbols_of([rest]):
                yield (rest + (lo if factor > 0 else hi) * factor,)


def _within(
    rest: Extent, factor: int, numerator: Dim, divisor: int
) -> Iterator[tuple[Extent, ...]]:
    """r + f k - f (x // d) >= 0 where r is at least b: (x - d k) // d may be up to b // f."""
    multiples: Extent = 0
    for atoms, number in () if isinstance(rest, int) else rest.terms:
        if atoms and number % factor == 0:
            multiples = multiples + Dim(((atoms, number // factor),))
    low, _ = dim.bounds(rest - multiples * factor)
    if low is not None:
        yield (low // factor * divisor + (divisor - 1) - numerator + multiples * divisor,)


__all__ = ["Binding", "Scope"]
