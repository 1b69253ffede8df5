"""sin and cos: x = q pi/2 + r with |r| <= pi/4, then a polynomial of r chosen and signed by q (Cody
and Waite 1980).

The reduction is good up to ``SINE_LIMITS``; beyond them results lie in [-1, 1] but mean less and
less, then nothing (a full reduction after Payne and Hanek would need tables). sin(±inf) and
cos(±inf) are NaN. Coefficients: as in exponential.py.
"""

from __future__ import annotations

import math

from ....scalar import Expr, call, cast, select
from ....tensor_type import FLOAT32, FLOAT64, DType
from .algebra import (
    SINGLE,
    at_least,
    at_most,
    bits_of,
    float_of,
    fma,
    format_of,
    horner,
    masked,
    rounded,
    shifted_left,
    sign_of,
    two_sum,
)  # fmt: skip

# |x| up to which ULP_BOUNDS hold
SINE_LIMITS: dict[DType, float] = {FLOAT32: 2.0**17, FLOAT64: 2.0**20}

# (sin r - r) / r^3 and (cos r - 1 + r^2/2) / r^4 in r^2; errors 2^-27.9 and 2^-32.6, then 2^-63.3
# and 2^-69.0
_SIN_SINGLE = tuple(map(float.fromhex, ("-0x1.555544p-3", "0x1.1106bep-7", "-0x1.991768p-13")))
_COS_SINGLE = tuple(map(float.fromhex, ("0x1.555548p-5", "-0x1.6c0af6p-10", "0x1.99924ep-16")))
_SIN_DOUBLE = tuple(map(float.fromhex, (
    "-0x1.5555555555555p-3", "0x1.1111111111068p-7", "-0x1.a01a019ffe093p-13", "0x1.71de3a332debdp-19",
    "-0x1.ae642b9e3b20ep-26", "0x1.61093fe45007bp-33", "-0x1.9fbb081c89e68p-41",
)))  # fmt: skip
_COS_DOUBLE = tuple(map(float.fromhex, (
    "0x1.5555555555555p-5", "-0x1.6c16c16c16b31p-10", "0x1.a01a019ffcf4cp-16", "-0x1.27e4fb5a7569ep-22",
    "0x1.1eed6ff064767p-29", "-0x1.9374df6f20455p-37", "0x1.9df226eabd480p-45",
)))  # fmt: skip
# pi/2 in parts of 36 bits (for float32's reduction in float64) and 33 bits, so that products with n
# are exact
_HALF_PI_SINGLE = tuple(map(float.fromhex, ("0x1.921fb54440000p+0", "0x1.68c234c4c6629p-39")))
_HALF_PI_DOUBLE = tuple(map(float.fromhex, (
    "0x1.921fb544p+0", "0x1.0b4611a6p-34", "0x1.3198a2ep-69", "0x1.b839a252p-104",
)))  # fmt: skip
# more than any |r|, and than any low part of it, inside the limits
_WIDEST, _WIDEST_LOW = 0.9, 2.0**-52


def sin(x: Expr) -> Expr:
    """The sine; the sign of x is set aside first, so that sin(-0) is -0."""
    sine, cosine, quadrant = _turned(call("abs", x))
    return _chosen(quadrant, sine, cosine, call("xor", _quadrant_sign(quadrant), sign_of(x)))


def cos(x: Expr) -> Expr:
    """The cosine."""
    sine, cosine, quadrant = _turned(call("abs", x))
    turned = quadrant + 1
    return _chosen(turned, sine, cosine, _quadrant_sign(turned))


def _chosen(quadrant: Expr, sine: Expr, cosine: Expr, sign: Expr) -> Expr:
    value = select(call("equal", masked(quadrant, 1), 0), sine, cosine)
    return float_of(call("xor", bits_of(value), sign))


def _quadrant_sign(quadrant: Expr) -> Expr:
    """The sign bit, set where bit 1 of the quadrant is."""
    return shifted_left(masked(quadrant, 2), quadrant.dtype.bytes * 8 - 2)


def _turned(size: Expr) -> tuple[Expr, Expr, Expr]:
    """sin r and cos r (the sign bit of sin is that of r), and bits whose low two are the
    quadrant.
    """
    n, quadrant = rounded(size, 2 / math.pi)
    if format_of(size) is SINGLE:
        r = _inside(_reduced_in_double(size, n), _WIDEST)
        return *_sine_and_cosine_single(r), quadrant
    high, low = _reduced(size, n)
    return *_sine_and_cosine_double(_inside(high, _WIDEST), _inside(low, _WIDEST_LOW)), quadrant


def _inside(r: Expr, widest: float) -> Expr:
    return at_most(at_least(r, -widest), widest)


def _reduced_in_double(size: Expr, n: Expr) -> Expr:
    wide, turns = cast(size, FLOAT64), cast(n, FLOAT64)
    for part in _HALF_PI_SINGLE:
        wide = fma(turns, -part, wide)
    return cast(wide, FLOAT32)


def _reduced(x: Expr, n: Expr) -> tuple[Expr, Expr]:
    """x - n pi/2 as a double word."""
    first, second, third, fourth = _HALF_PI_DOUBLE
    total, error = two_sum(fma(n, -first, x), n * -second)
    total, next_error = two_sum(total, n * -third)
    rest = (error + next_error) + n * -fourth
    high = total + rest
    return high, (total - high) + rest


def _sine_and_cosine_single(r: Expr) -> tuple[Expr, Expr]:
    z = r * r
    sine = fma(r * z, horner(z, _SIN_SINGLE), r)
    return sine, fma(z, fma(z, horner(z, _COS_SINGLE), -0.5), 1.0)


def _sine_and_cosine_double(r: Expr, low: Expr) -> tuple[Expr, Expr]:
    """sin(r + low) = sin r + low, cos(r + low) = cos r - r low, with the rounding of 1 - r^2/2
    made up for.
    """
    z = r * r
    sine = r + fma(r * z, horner(z, _SIN_DOUBLE), low)
    half = 0.5 * z
    head = 1.0 - half
    tail = fma(z * z, horner(z, _COS_DOUBLE), -(r * low))
    return sine, head + (((1.0 - head) - half) + tail)
