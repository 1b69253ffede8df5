"""What the formulas of vector math are made of: float formats, polynomials, bit operations, exact
splits.

Everything maps expressions to expressions, lane by lane. A value that must be exact is exact
whether or not fma is one rounding: products are exact because their factors are short, never
because fma is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....scalar import Bitcast, Expr, Number, call, literal, select
from ....tensor_type import FLOAT32, FLOAT64, UINT32, UINT64, DType


@dataclass(frozen=True)
class Format:
    """An IEEE 754 binary format, read as unsigned integers of the same size."""

    dtype: DType
    bits: DType
    mantissa: int  # stored bits
    bias: int

    @property
    def sign_mask(self) -> int:
        return 1 << (self.bits.bytes * 8 - 1)

    @property
    def mantissa_mask(self) -> int:
        return (1 << self.mantissa) - 1

    @property
    def smallest_normal(self) -> float:
        return 2.0 ** (1 - self.bias)

    @property
    def magic(self) -> float:
        """x + magic is rounded to an integer, which then stands in the low bits (|x| <
        2^(mantissa - 2)).
        """
        return 1.5 * 2.0**self.mantissa


SINGLE = Format(FLOAT32, UINT32, 23, 127)
DOUBLE = Format(FLOAT64, UINT64, 52, 1023)


def format_of(x: Expr) -> Format:
    """The format of a float32 or float64 expression."""
    return SINGLE if x.dtype is FLOAT32 else DOUBLE


def fma(x: Expr, y: Number, z: Number) -> Expr:
    return call("fma", x, y, z)


def horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """c0 + c1 x + c2 x^2 + …, one fma a step."""
    total: Expr = literal(coefficients[-1], x.dtype)
    for coefficient in reversed(coefficients[:-1]):
        total = fma(total, x, coefficient)
    return total


# NaN passes both bounds, and each is one instruction on x86 (the functions min and max are three).
def at_least(x: Expr, low: float) -> Expr:
    return select(x < low, low, x)


def at_most(x: Expr, high: float) -> Expr:
    return select(x > high, high, x)


def bits_of(x: Expr) -> Expr:
    return Bitcast(x, format_of(x).bits)


def float_of(bits: Expr) -> Expr:
    return Bitcast(bits, FLOAT32 if bits.dtype is UINT32 else FLOAT64)


def shifted_left(bits: Expr, count: int) -> Expr:
    return call("shift_left", bits, count)


def shifted_right(bits: Expr, count: int) -> Expr:
    return call("shift_right", bits, count)


def masked(bits: Expr, mask: int) -> Expr:
    return call("and", bits, mask)


def sign_of(x: Expr) -> Expr:
    """The sign bit alone, in place."""
    return masked(bits_of(x), format_of(x).sign_mask)


def with_sign(size: Expr, sign: Expr) -> Expr:
    """|size| with a sign bit."""
    return float_of(call("or", masked(bits_of(size), format_of(size).sign_mask - 1), sign))


def rounded(x: Expr, factor: float, offset: int = 0) -> tuple[Expr, Expr]:
    """n, the integer nearest to x * factor, as a float; and bits whose low ones hold n + offset."""
    magic = format_of(x).magic + offset
    total = x + magic if factor == 1.0 else fma(x, factor, magic)
    return total - magic, bits_of(total)


# -- double words: the unevaluated sum of two floats -----------------------------------------------


def half_word(x: Expr) -> Expr:
    """x without the lower 27 of its 53 bits: a product of two such words is exact."""
    return float_of(masked(bits_of(x), (1 << 64) - (1 << 27)))


def fast_two_sum(x: Expr, y: Expr) -> tuple[Expr, Expr]:
    """x + y and its rounding error, for |x| >= |y| or x = 0 (Dekker 1971)."""
    total = x + y
    return total, y - (total - x)


def two_sum(x: Expr, y: Expr) -> tuple[Expr, Expr]:
    """x + y and its rounding error (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)
