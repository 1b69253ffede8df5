"""log and pow from one decomposition: x = 2^e m with sqrt(1/2) <= m < sqrt(2).

float32 pow is computed in float64 and rounded once; float64 pow carries the logarithm as a double
word with an error of about 2^-65, because an error of it is multiplied by y. Coefficients: as in
exponential.py.
"""

from __future__ import annotations

import math

from ....scalar import Expr, call, cast, literal, select
from ....tensor_type import FLOAT64
from .algebra import (
    DOUBLE,
    SINGLE,
    Format,
    at_least,
    at_most,
    bits_of,
    fast_two_sum,
    float_of,
    fma,
    format_of,
    half_word,
    horner,
    masked,
    rounded,
    shifted_left,
    shifted_right,
    sign_of,
)  # fmt: skip
from .exponential import constants, exp

# (log(1 + f) - f) / f^2; error 2^-27.7 of the logarithm
_LOG_SINGLE = tuple(map(float.fromhex, (
    "-0x1.fffff8p-2", "0x1.55554ap-2", "-0x1.00042ep-2", "0x1.99a73ep-3", "-0x1.54293cp-3", "0x1.2232aap-3",
    "-0x1.0ee5fcp-3", "0x1.09b58cp-3", "-0x1.3d3c72p-4",
)))  # fmt: skip
# (2 atanh(s) - 2 s) / s^3 in s^2; error 2^-59.5 of the logarithm
_LOG_DOUBLE = tuple(map(float.fromhex, (
    "0x1.5555555555592p-1", "0x1.999999997ff1dp-2", "0x1.24924941e18bap-2", "0x1.c71c5213b262ap-3",
    "0x1.74663d2469e7dp-3", "0x1.39a1e1376efe5p-3", "0x1.2f0418a40a2fcp-3",
)))  # fmt: skip
# the same with error 2^-37.6
_LOG_SHORT = tuple(map(float.fromhex, (
    "0x1.555554fd90387p-1", "0x1.999a7aa377bd6p-2", "0x1.2438d12c7fecfp-2", "0x1.e2f76069aa00bp-3",
)))  # fmt: skip
# (2 atanh(s) - 2 s - 2/3 s^3) / s^5 in s^2; error 2^-73.5 of the logarithm
_LOG_TAIL = tuple(map(float.fromhex, (
    "0x1.9999999999996p-2", "0x1.2492492492f50p-2", "0x1.c71c71c596b72p-3", "0x1.745d1829432d9p-3",
    "0x1.3b1364ce16effp-3", "0x1.11206e8a19ecdp-3", "0x1.de3d86d777876p-4", "0x1.eac524d59faeap-4",
)))  # fmt: skip
# 2^r - 1 = r (…) on [-1/2, 1/2]; error 2^-34.3
_EXP2_SHORT = tuple(map(float.fromhex, (
    "0x1.62e42ff0e6ca4p-1", "0x1.ebfbe0791cf4fp-3", "0x1.c6b08ab5ddbe6p-5", "0x1.3b29f202e6a30p-7",
    "0x1.5d8a8e152cd74p-10", "0x1.445de63bbff31p-13", "0x1.fde0725c015a8p-17",
)))  # fmt: skip
_THIRD_HI = float.fromhex("0x1.5555558p-2")  # 26 bits of 1/3
_THIRD_LO = float.fromhex("-0x1.5555555555555p-29")
# times any logarithm but 0 this overflows exp; and no product becomes inf - inf
_EXPONENT_LIMIT = 2.0**600


def log(x: Expr) -> Expr:
    """The natural logarithm: NaN below zero, -inf at either zero."""
    form = format_of(x)
    e, f = _decomposed(x, form, may_be_denormal=True)
    c = constants(form)
    if form is SINGLE:
        z = f * f
        value = fma(e, c.ln2_hi, f + fma(e, c.ln2_lo, z * horner(f, _LOG_SINGLE)))
    else:
        value = _log_double(e, f, c.ln2_hi, c.ln2_lo)
    below = select(call("equal", x, 0.0), literal(-math.inf, x.dtype), math.nan)
    return select(x > 0.0, select(x < math.inf, value, x), below)


def _log_double(e: Expr, f: Expr, ln2_hi: float, ln2_lo: float) -> Expr:
    """2 atanh(s) = f - s (f - s^2 R) with s = f / (2 + f) and f^2 / 2 taken out: the large terms
    are exact.
    """
    s = f / (f + 2.0)
    z = s * s
    half = 0.5 * f * f
    small = fma(s, fma(z, horner(z, _LOG_DOUBLE), half), e * ln2_lo)
    return fma(e, ln2_hi, f - (half - small))


def _decomposed(x: Expr, form: Format, may_be_denormal: bool) -> tuple[Expr, Expr]:
    """e and f with x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for finite x > 0; without
    branches or conversions.
    """
    start = form.magic / 1.5 + form.bias  # the bits k below 2^mantissa make 2^mantissa + k
    offset: Expr = literal(start, form.dtype)
    if may_be_denormal:
        is_denormal = x < form.smallest_normal
        x = select(is_denormal, x * 2.0 ** (form.mantissa + 1), x)
        offset = select(is_denormal, literal(start + form.mantissa + 1, form.dtype), offset)
    root = _bits(math.sqrt(0.5), form)
    moved = bits_of(x) + ((form.bias << form.mantissa) - root)
    k = call("or", shifted_right(moved, form.mantissa), _bits(2.0**form.mantissa, form))
    m = float_of(masked(moved, form.mantissa_mask) + root)
    return float_of(k) - offset, m - 1.0


def _bits(value: float, form: Format) -> int:
    """The bits of a constant (rounded towards zero)."""
    fraction, exponent = math.frexp(value)
    return ((exponent - 2 + form.bias) << form.mantissa) + int(
        math.ldexp(fraction, form.mantissa + 1)
    )


def pow(x: Expr, y: Expr) -> Expr:
    """x to the y, with the special cases of C99 (annex F.10.4.4)."""
    size = call("abs", x)
    power = _power_in_double(size, y) if format_of(x) is SINGLE else _power(size, y)
    half = y * 0.5
    is_whole = call("equal", call("trunc", y), y)
    is_odd = call("and", is_whole, call("not_equal", call("trunc", half), half))
    signed = float_of(call("or", bits_of(power), select(is_odd, sign_of(x), 0)))
    is_invalid = call("and", call("and", x < 0.0, size < math.inf), call("not", is_whole))
    is_one = call("or", call("equal", y, 0.0), call("equal", x, 1.0))
    return select(is_one, 1.0, select(is_invalid, math.nan, signed))


def _power_in_double(size: Expr, y: Expr) -> Expr:
    """2^(y log2 size), for float32."""
    wide = cast(size, FLOAT64)
    e, f = _decomposed(wide, DOUBLE, may_be_denormal=False)
    s = f / (f + 2.0)
    z = s * s
    natural = fma(s * z, horner(z, _LOG_SHORT), s + s)
    logarithm = _with_limits(fma(natural, math.log2(math.e), e), wide)
    exponent = at_most(at_least(_limited(cast(y, FLOAT64)) * logarithm, -160.0), 130.0)
    n, bits = rounded(exponent, 1.0, DOUBLE.bias)
    r = exponent - n
    value = horner(r, (1.0, *_EXP2_SHORT)) * float_of(shifted_left(bits, DOUBLE.mantissa))
    return cast(value, size.dtype)


def _limited(y: Expr) -> Expr:
    return at_most(at_least(y, -_EXPONENT_LIMIT), _EXPONENT_LIMIT)


def _with_limits(logarithm: Expr, size: Expr) -> Expr:
    """The logarithm of 0, inf and NaN put in."""
    zero = literal(0.0, size.dtype)
    finite = select(call("equal", size, zero), literal(-math.inf, size.dtype), logarithm)
    return select(size < math.inf, finite, size)


def _power(size: Expr, y: Expr) -> Expr:
    """e^(y log size) for float64, with the logarithm and the product as double words."""
    high, low = _double_word_log(size)
    limited = _limited(y)
    y_hi = half_word(limited)
    high_word = half_word(high + low)
    rest = (high - high_word) + low
    product = y_hi * _with_limits(high_word, size)
    error = fma(y_hi, rest, (limited - y_hi) * (high_word + rest))
    # Past exp's limits, and where the product is infinite, its error means nothing.
    total, lost = fast_two_sum(product, error)
    is_ordinary = call("abs", product) < 800.0
    return exp(select(is_ordinary, total, product), select(is_ordinary, lost, 0.0))


def _double_word_log(size: Expr) -> tuple[Expr, Expr]:
    """log(size) = e ln2 + 2 s (1 + s^2/3 + s^4 R), s = f / (2 + f), with an error of about 2^-65
    of it.
    """
    e, f = _decomposed(size, DOUBLE, may_be_denormal=True)
    s_hi, s_lo = _quotient(f)
    s = s_hi + s_lo
    z = s * s
    z_hi = half_word(z)
    z_lo = fma(s_lo, s + s_hi, s_hi * s_hi - z_hi)
    tail = fma(z_hi, _THIRD_LO, fma(z_lo, 1 / 3, z * z * (0.5 * horner(z, _LOG_TAIL))))
    c_hi, c_lo = fast_two_sum(literal(1.0, FLOAT64), z_hi * _THIRD_HI)
    rest = c_lo + tail
    factor = half_word(c_hi + rest)
    rest = (c_hi - factor) + rest
    product = s_hi * factor
    error = fma(s_hi, rest, s_lo * (factor + rest))
    c = constants(DOUBLE)
    high, low = fast_two_sum(e * c.ln2_hi, product + product)
    return high, low + fma(e, c.ln2_lo, error + error)


def _quotient(f: Expr) -> tuple[Expr, Expr]:
    """f / (2 + f) as a short word and the rest."""
    d = f + 2.0
    d_lo = f - (d - 2.0)
    s_hi = half_word(f / d)
    d_hi = half_word(d)
    remainder = (f - s_hi * d_hi) - s_hi * ((d - d_hi) + d_lo)
    return s_hi, remainder / d
