"""Vectors divided by one number: a product with its reciprocal, rounded once more, in place of a
division, which takes a CPU several times as long.

With r = 1 / y rounded, q = x r is less than two units off; what is left of x, x - q y, is exact by
fma, and q + (x - q y) r is the quotient, rounded as a division rounds it (Markstein 1990). Where x
or the quotient is infinite that sum is NaN, and q is right. Divisors outside ``RANGE``, whose
reciprocals may be denormal or infinite, divide, as all do on CPUs without fma. Of dividends below
1 / RANGE, what is left has too few digits: there the result may be the quotient's neighbour.
"""

from __future__ import annotations

import math

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
        return _by_constant(f, dtype, x, y)
    flag = f.numbers.once(("has a reciprocal", y), lambda: _has_reciprocal(f, dtype, y))
    inverse = f.numbers.once(
        ("reciprocal", y), lambda: f.b.fdiv(literal(1.0, dtype), y)
    )
    both = f.vector(y), f.vector(inverse)
    return f.either(flag, lambda: _rounded(f, x, *both), lambda: f.b.fdiv(x, both[0]))


def _by_constant(f: Function, dtype: DType, x: Operand, y: ir.Constant) -> Operand:
    number = dtype.numpy.type(y.constant)
    is_exact = abs(math.frexp(number)[0]) == 0.5  # LLVM multiplies by it
    if is_exact or not 1 / RANGE[dtype.bytes] <= abs(number) <= RANGE[dtype.bytes]:
        return f.b.fdiv(x, f.vector(y))
    inverse = literal(float(dtype.numpy.type(1) / number), dtype)
    return _rounded(f, x, f.vector(y), f.vector(inverse))


def _rounded(f: Function, x: Operand, y: Operand, inverse: Operand) -> Operand:
    quotient = f.b.fmul(x, inverse)
    rest = f.fma(f.b.fneg(quotient), y, x)
    nearest = f.fma(rest, inverse, quotient)
    return f.b.select(f.b.fcmp_unordered("uno", nearest, nearest), quotient, nearest)


def _has_reciprocal(f: Function, dtype: DType, y: Operand) -> Operand:
    size, most = f.unary("llvm.fabs", y), RANGE[dtype.bytes]
    is_large = f.b.fcmp_ordered(">=", size, literal(1 / most, dtype))
    return f.b.and_(is_large, f.b.fcmp_ordered("<=", size, literal(most, dtype)))


__all__ = ["RANGE", "divided"]
