"""Extents -> a function of host code that computes them from the values of symbols."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from operator import or_

from llvmlite import ir

from ...dim import Atom, Extent, Minimum, Quotient, Remainder, Symbol
from ...program import Program
from .host import I1, I64, PTR, Function, Word

VALUES = ir.FunctionType(I1, [PTR, PTR])


def emit_values(
    module: ir.Module, program: Program, extents: Sequence[Extent], own: Sequence[Symbol] = ()
) -> ir.Function:
    """A function ``i1 (symbols *, values *)`` that stores every extent's value; true: 64 bits
    were too few. ``symbols``: the program's, then those that an entry binds itself (``own``).
    """
    symbols = (*program.symbols, *own)
    code = Function(module, f"values{len(module.globals)}", I1, {"symbols": PTR, "values": PTR})
    emitter = _ExtentEmitter(code, {symbol: index for index, symbol in enumerate(symbols)})
    values = code["values"].array(I64)
    for number, extent in enumerate(extents):
        values[number] = emitter.extent(extent)
    code.return_(emitter.overflow)
    return code.function


class _ExtentEmitter:
    """Straight-line code for extents; equal parts are computed once. Nesting of extents is
    shallow by construction.
    """

    def __init__(self, code: Function, symbols: dict[Symbol, int]) -> None:
        self.code = code
        self._flags: list[tuple[int, Word]] = []  # each of so many overflows, fewer and fewer
        self._symbols = symbols
        self._known: dict[object, Word] = {}  # by extent, atom, atoms, or atoms and factor

    @property
    def overflow(self) -> Word:
        """Whether 64 bits were too few so far."""
        return reduce(or_, (flag for _, flag in self._flags), self.code.word(0, I1))

    def extent(self, extent: Extent) -> Word:
        if isinstance(extent, int):
            return self.code.word(extent)
        if extent not in self._known:
            terms = [self._term(atoms, factor) for atoms, factor in extent.terms]
            self._known[extent] = reduce(partial(self._checked, "sadd_with_overflow"), terms)
        return self._known[extent]

    def _term(self, atoms: tuple[Atom, ...], factor: int) -> Word:
        if not atoms:
            return self.code.word(factor)
        if factor == 1:
            return self._product(atoms)
        if (atoms, factor) not in self._known:
            product = self._product(atoms)
            term = self._checked("smul_with_overflow", product, self.code.word(factor))
            self._known[atoms, factor] = term
        return self._known[atoms, factor]

    def _product(self, atoms: tuple[Atom, ...]) -> Word:
        if len(atoms) == 1:
            return self._atom(atoms[0])
        if atoms not in self._known:
            left, right = self._product(atoms[:-1]), self._atom(atoms[-1])
            self._known[atoms] = self._checked("smul_with_overflow", left, right)
        return self._known[atoms]

    def _checked(self, instruction: str, left: Word, right: Word) -> Word:
        builder = self.code.builder
        pair = getattr(builder, instruction)(left.value, right.value)
        self._note(Word(self.code, builder.extract_value(pair, 1)))
        return Word(self.code, builder.extract_value(pair, 0))

    def _note(self, flag: Word) -> None:
        """Joins overflows as a balanced tree: on a chain of thousands LLVM takes a minute."""
        count = 1
        while self._flags and self._flags[-1][0] == count:
            count *= 2
            flag = self._flags.pop()[1] | flag
        self._flags.append((count, flag))

    def _atom(self, atom: Atom) -> Word:
        if atom not in self._known:
            self._known[atom] = self._emit_atom(atom)
        return self._known[atom]

    def _emit_atom(self, atom: Atom) -> Word:
        match atom:
            case Symbol():
                return self.code["symbols"].array(I64)[self._symbols[atom]]
            case Quotient(numerator, divisor):
                return self._floor_divide(self.extent(numerator), divisor)[0]
            case Remainder(numerator, divisor):
                return self._floor_divide(self.extent(numerator), divisor)[1]
            case Minimum(left, right):
                a, b = self.extent(left), self.extent(right)
                return self.code.select(a < b, a, b)

    def _floor_divide(self, numerator: Word, divisor: int) -> tuple[Word, Word]:
        """Quotient and remainder that round towards minus infinity."""
        quotient, remainder = numerator // divisor, numerator % divisor
        below = remainder < 0
        return (
            self.code.select(below, quotient - 1, quotient),
            self.code.select(below, remainder + divisor, remainder),
        )
