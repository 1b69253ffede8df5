"""Vectors divided by one number: a product and an fma with its reciprocal in two parts, in place of
a division, which takes a CPU several times as long.

1 / y = r + s, where r has the digits of a float and s those behind them, so x / y = x r + x s, and
fma rounds that once (Brisebarre, Muller and Raina 2004). The two products are off by less than
2^-21 units in the last place: the result is the quotient, rounded as a division rounds it, but for
about one in some millions of quotients that lie so close to the middle between two numbers. r is
the smaller in size, so that s has its sign: infinite x give infinite quotients, and no NaN.

Divisors outside ``RANGE``, whose reciprocals may be denormal or infinite, divide, as all do on CPUs
without fma. Denormal quotients may be the division's neighbours, too.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from llvmlite import ir

from ....tensor_type import DType
from .function import Function
from .representation import Operand, literal

RANGE = {4: 2.0**100, 8: 2.0**960}  # of divisors and their reciprocals, by bytes


def divided(f: Function, dtype: DType, x: Operand, y: Operand) -> Operand:
    """x / y: a vector by a number, of float32 or float64."""
    if not f.cpu.has_fma:
        return f.b.fdiv(x, f.vector(y))
    if isinstance(y, ir.Constant):
        parts = _parts_of_constant(dtype, y.constant)
        return f.b.fdiv(x, f.vector(y)) if parts is None else _product(f, x, *parts)
    has_parts = f.numbers.once(("has a reciprocal", y), lambda: _has_parts(f, dtype, y))
    high = f.numbers.once(("reciprocal", y), lambda: _high(f, dtype, y))
    low = f.numbers.once(("rest of the reciprocal", y), lambda: _low(f, dtype, y, high))
    every = [f.vector(part) for part in (y, high, low)]  # before the branch, for all copies
    return f.either(has_parts, lambda: _product(f, x, *every[1:]), lambda: f.b.fdiv(x, every[0]))


def _product(f: Function, x: Operand, high: Operand, low: Operand) -> Operand:
    return f.fma(x, f.vector(high), f.b.fmul(x, f.vector(low)))


def _has_parts(f: Function, dtype: DType, y: Operand) -> Operand:
    size, most = f.unary("llvm.fabs", y), RANGE[dtype.bytes]
    is_large = f.b.fcmp_ordered(">=", size, literal(1 / most, dtype))
    return f.b.and_(is_large, f.b.fcmp_ordered("<=", size, literal(most, dtype)))


def _high(f: Function, dtype: DType, y: Operand) -> Operand:
    """The number next to 1 / y, rounded, towards zero."""
    bits = ir.IntType(dtype.bytes * 8)
    nearest = f.b.bitcast(f.b.fdiv(literal(1.0, dtype), y), bits)
    return f.b.bitcast(f.b.sub(nearest, bits(1)), y.type)


def _low(f: Function, dtype: DType, y: Operand, high: Operand) -> Operand:
    """1 / y - high, as (1 - y high) high."""
    rest = f.fma(f.b.fneg(y), high, literal(1.0, dtype))
    return f.b.fmul(rest, high)


def _parts_of_constant(dtype: DType, number: float) -> tuple[ir.Constant, ir.Constant] | None:
    """The parts of a reciprocal; None if it has none, or is a float, by which LLVM multiplies."""
    y = dtype.numpy.type(number)
    is_power = abs(math.frexp(y)[0]) == 0.5
    if is_power or not 1 / RANGE[dtype.bytes] <= abs(y) <= RANGE[dtype.bytes]:
        return None
    high = np.nextafter(dtype.numpy.type(1) / y, dtype.numpy.type(0))
    low = dtype.numpy.type(1 / Fraction(float(y)) - Fraction(float(high)))
    return literal(float(high), dtype), literal(float(low), dtype)


__all__ = ["RANGE", "divided"]
