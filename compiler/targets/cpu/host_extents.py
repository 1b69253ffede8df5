"""Extents -> a function of host code that computes them from the values of symbols."""

from __future__ import annotations

from collections.abc import Sequence

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
        self.overflow = code.word(0, I1)
        self._symbols = symbols
        self._known: dict[Extent | Atom, Word] = {}

    def extent(self, extent: Extent) -> Word:
        if isinstance(extent, int):
            return self.code.word(extent)
        if extent not in self._known:
            total = self.code.word(0)
            for atoms, factor in extent.terms:
                term = self.code.word(factor)
                for atom in atoms:
                    term = self._checked("smul_with_overflow", term, self._atom(atom))
                total = self._checked("sadd_with_overflow", total, term)
            self._known[extent] = total
        return self._known[extent]

    def _checked(self, instruction: str, left: Word, right: Word) -> Word:
        builder = self.code.builder
        pair = getattr(builder, instruction)(left.value, right.value)
        self.overflow = self.overflow | Word(self.code, builder.extract_value(pair, 1))
        return Word(self.code, builder.extract_value(pair, 0))

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
