"""exp, tanh and erf from one reduction: x = n ln2 + r with |r| <= ln2 / 2 (Cody and Waite 1980).

tanh and erf keep their relative accuracy at zero because they are made of e^x - 1, not of e^x. The
coefficients are weighted minimax fits (Lawson's iteration on Chebyshev nodes, 50 digits), the first
three rounded one after another with the rest fitted again, so that the shipped, rounded polynomials
have the errors given beside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....scalar import Bitcast, Call, Expr, call, select
from .algebra import (
    SINGLE,
    Format,
    at_least,
    at_most,
    float_of,
    fma,
    format_of,
    horner,
    rounded,
    shifted_left,
    shifted_right,
    sign_of,
    with_sign,
)  # fmt: skip


@dataclass(frozen=True)
class Exponential:
    """Constants of one format: where exp is 0 and inf, ln2 in two parts, (e^r - 1 - r) / r^2 as
    a polynomial.
    """

    lowest: float
    highest: float
    ln2_hi: float  # so short that products with n are exact
    ln2_lo: float
    series: tuple[float, ...]
    tanh_series: tuple[float, ...]  # the same on [-ln2 / 4, 3 ln2 / 4]
    tanh_limit: float  # tanh rounds to 1 from here on


_SINGLE = Exponential(
    lowest=-104.0,
    highest=89.0,
    ln2_hi=float.fromhex("0x1.62e4p-1"),
    ln2_lo=float.fromhex("0x1.7f7d1cf79abcap-20"),
    series=tuple(map(float.fromhex, (  # error 2^-26.1 of r
        "0x1p-1", "0x1.5554aep-3", "0x1.5554f0p-5", "0x1.12291ap-7", "0x1.6d43aep-10",
    ))),
    tanh_series=tuple(map(float.fromhex, (  # error 2^-25.9 of r
        "0x1p-1", "0x1.555656p-3", "0x1.554d2cp-5", "0x1.0f2d34p-7", "0x1.a630f0p-10",
    ))),
    tanh_limit=9.1,
)  # fmt: skip
_DOUBLE = Exponential(
    lowest=-746.0,
    highest=710.0,
    ln2_hi=float.fromhex("0x1.62e42fefa4p-1"),
    ln2_lo=float.fromhex("-0x1.8432a1b0e2634p-43"),
    series=tuple(map(float.fromhex, (  # error 2^-61.6 of r
        "0x1p-1", "0x1.5555555555559p-3", "0x1.5555555555557p-5", "0x1.111111110f641p-7", "0x1.6c16c16c156d6p-10",
        "0x1.a01a01b0101eap-13", "0x1.a01a01ab733e2p-16", "0x1.71ddf7e69139dp-19", "0x1.27e4d02fc5f37p-22",
        "0x1.af5f7fdb6af70p-26", "0x1.1f85e38ee8d72p-29",
    ))),
    tanh_series=tuple(map(float.fromhex, (  # error 2^-61.2 of r
        "0x1p-1", "0x1.555555555555bp-3", "0x1.5555555555522p-5", "0x1.111111110db9ep-7", "0x1.6c16c16c82e92p-10",
        "0x1.a01a01c0754a5p-13", "0x1.a019fb109ecbfp-16", "0x1.71de2ce4653efp-19", "0x1.27fec80731313p-22",
        "0x1.a965c9de6cc54p-26", "0x1.5103640f3982ap-29",
    ))),
    tanh_limit=20.0,
)  # fmt: skip
# -log(erfc(t)) / t - 1 on [0, 3.95]; error 2^-27.8 of erf
_ERF_SINGLE = tuple(map(float.fromhex, (
    "0x1.06eba8p-3", "0x1.45f300p-1", "0x1.a4f8c2p-4", "-0x1.39b794p-6", "-0x1.63be8ap-13", "0x1.b74f2ap-10",
    "-0x1.4e365cp-11", "0x1.f2a982p-14", "-0x1.3b1efap-17",
)))  # fmt: skip
# erf(x) / x - 1 in x^2 on [0, 1]; error 2^-56.0 of erf
_ERF_NEAR = tuple(map(float.fromhex, (
    "0x1.06eba8214db68p-3", "-0x1.812746b0379a5p-2", "0x1.ce2f21a04014cp-4", "-0x1.b82ce311d3d32p-6",
    "0x1.565bccf4eb307p-8", "-0x1.c02dafaed4370p-11", "0x1.f9a2aeb75936fp-14", "-0x1.f4c9a71fcc0a6p-17",
    "0x1.b979f45133472p-20", "-0x1.5be5e81daa180p-23", "0x1.d644f20fc2c23p-27", "-0x1.a95793e5da0b0p-31",
)))  # fmt: skip
# -log(erfc(2 + u)) on [-1, 4]; error 2^-56.7 of erf
_ERF_FAR = tuple(map(float.fromhex, (
    "0x1.575b329b1f514p+2", "0x1.1ac3258a8dc2ap+2", "0x1.d8f5dece9297cp-1", "0x1.0dc3b5fb32650p-6",
    "-0x1.d406b378b8250p-9", "0x1.7ffcfb00eda4ep-11", "-0x1.1bc3a4db93aedp-13", "0x1.5b659d6b2795cp-16",
    "-0x1.060498ebf531ap-19", "-0x1.b5802c9f4c1d3p-23", "0x1.73e16245890fap-23", "-0x1.ef9c0fe4ef4b4p-25",
    "0x1.e0ba82e470ff7p-27", "-0x1.66a12908b4374p-29", "0x1.19f84294253a4p-32", "0x1.3aa0ca626697ep-34",
    "-0x1.41707ec814590p-35", "0x1.55435fc6c98c2p-38",
)))  # fmt: skip

_TANH_NEAR = 0.259  # n = 0 up to here


def constants(form: Format) -> Exponential:
    return _SINGLE if form is SINGLE else _DOUBLE


def exp(x: Expr, low: Expr | None = None) -> Expr:
    """e^x (e^(x + low), if a small low part is given): infinite, denormal and zero where they
    should be.
    """
    form = format_of(x)
    c = constants(form)
    limited = at_most(at_least(x, c.lowest), c.highest)
    n, bits = rounded(limited, math.log2(math.e), 2 * form.bias)
    r = _remainder(limited, n, c)
    r = r if low is None else r + low
    return _scaled(horner(r, (1.0, 1.0, *c.series)), bits, form)


def _scaled(value: Expr, bits: Expr, form: Format) -> Expr:
    """value * 2^n, where the low bits hold n + 2 bias, as value * 2^a * 2^b with a + b = n: both
    powers are normal numbers, and only the last product rounds.
    """
    a = shifted_right(bits, 1)
    b = bits - a
    powers = (float_of(shifted_left(part, form.mantissa)) for part in (a, b))
    return value * next(powers) * next(powers)


def scaling(node: Expr) -> tuple[Expr, Expr, float] | None:
    """(value, total, magic) of a product that scales as ``exp`` does: it is value * 2^(total -
    magic), rounded once. None for all else.
    """
    match node:
        case Call("mul", (Call("mul", (value, Bitcast(Call("shift_left", (half, _))))), power)):
            pass
        case _:
            return None
    match power:
        case Bitcast(Call("shift_left", (Call("sub", (Bitcast(total), other)), _))):
            form = format_of(node)
            return (value, total, form.magic + 2 * form.bias) if other is half else None
    return None


def _remainder(x: Expr, n: Expr, c: Exponential) -> Expr:
    return fma(n, -c.ln2_lo, fma(n, -c.ln2_hi, x))


def _exp_minus_1(x: Expr, low: Expr | None = None) -> Expr:
    """e^(x + low) - 1 for |x| below about 60, accurate at zero (NaN stays)."""
    form = format_of(x)
    c = constants(form)
    n, bits = rounded(x, math.log2(math.e), form.bias)
    r = _remainder(x, n, c)
    series = horner(r, c.series)
    value = fma(r * r, series, r) if low is None else fma(r * r, series, low) + r
    power = float_of(shifted_left(bits, form.mantissa))
    return fma(value, power, power - 1.0)


def tanh(x: Expr) -> Expr:
    """sign(x) v / (1 + v), with v = (e^(2|x|) - 1) / 2 = |x| + w; near zero |x| + (w - v v / (1 +
    v)), nearly exact.

    -ln2 / 4 <= r <= 3 ln2 / 4, so that little cancels where n = 1.
    """
    form = format_of(x)
    c = constants(form)
    size = at_most(call("abs", x), c.tanh_limit)
    twice = size + size
    n, bits = rounded(fma(twice, math.log2(math.e), -0.25), 1.0, form.bias - 1)
    r = _remainder(twice, n, c)
    series = horner(r, c.tanh_series)
    power = float_of(shifted_left(bits, form.mantissa))
    v = fma(fma(r * r, series, r), power, power - 0.5)
    quotient = v / (v + 1.0)
    near = size + fma(size * r, series, -(v * quotient))
    return with_sign(select(size < _TANH_NEAR, near, quotient), sign_of(x))


def erf(x: Expr) -> Expr:
    """1 - e^(log erfc|x|) with the sign of x; float64 has a polynomial of its own up to 1."""
    return _erf_single(x) if format_of(x) is SINGLE else _erf_double(x)


def _erf_single(x: Expr) -> Expr:
    size = at_most(call("abs", x), 3.95)
    factor = horner(size, _ERF_SINGLE)
    exponent = fma(size, factor, size)
    rest = fma(size, factor, size - exponent)
    return with_sign(_exp_minus_1(-exponent, low=-rest), sign_of(x))


def _erf_double(x: Expr) -> Expr:
    size = call("abs", x)
    near = fma(size, horner(size * size, _ERF_NEAR), size)
    far = _exp_minus_1(-horner(at_most(size, 6.0) - 2.0, _ERF_FAR))
    return with_sign(select(size < 1.0, near, far), sign_of(x))
