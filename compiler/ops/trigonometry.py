"""Inverse circular and hyperbolic functions, as formulas of the primitives, and the bits of a
number as another dtype.

Each keeps its relative accuracy near its zero: there they are made of tanh, of log(1 + u), or of a
polynomial in x^2, never of a difference of near numbers. Half precision is computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from .. import scalar
from ..formula import Slope, elementwise, in_float32
from ..op import NotDifferentiable
from ..scalar import Bitcast, Expr, call, exp, select
from ..tensor_type import BOOL, UINT8, DType

Formula: TypeAlias = Callable[[Expr], Expr]

# atan(z) / z in z^2 for |z| <= tan(pi / 8): interpolation at Chebyshev's points, error 2^-58
ATAN: Final = (
    1.0, -0.3333333333333312, 0.19999999999940718, -0.1428571427924151, 0.11111110744715022, -0.09090896807639155,
    0.07692045366136527, -0.06662952780816962, 0.05846888860166885, -0.050351638779669805, 0.03796712609944861,
    -0.017807740252450893,
)  # fmt: skip
# (asin(s) / s - 1) / s^2 in s^2 for |s| <= 1/2, likewise: error 2^-57 of asin
ASIN: Final = (
    0.16666666666666669, 0.07499999999998433, 0.04464285714635543, 0.030381944138531247, 0.02237217294214989,
    0.017352392720869973, 0.013971212973552933, 0.011479177415184906, 0.01032281435018578, 0.005457506718640358,
    0.01740087944269402, -0.014851887071247204, 0.028757851367421566,
)  # fmt: skip
LARGE: Final = 2.0**28  # from here on x^2 + 1 = x^2, and no square overflows before


def _log1p(u: Expr) -> Expr:
    """log(1 + u), with the rounding of 1 + u undone (Kahan): log(w) u / (w - 1)."""
    w = 1 + u
    exact = select(call("equal", w, 1.0), u, call("log", w) * (u / (w - 1)))
    return select(w < 4, exact, call("log", w))


def _atan(x: Expr) -> Expr:
    """atan(t) = pi / 2 - atan(1 / t) beyond 1, and atan(z) = 2 atan(z / (1 + sqrt(1 + z^2)))."""
    t = select(x < 0, -x, x)
    is_steep = t > 1
    z = select(is_steep, 1 / t, t)
    half = z / (1 + call("sqrt", 1 + z * z))
    square = half * half
    angle = 2 * (half * _polynomial(square, ATAN))
    whole = select(is_steep, math.pi / 2 - angle, angle)
    return select(x < 0, -whole, whole)


def _asin(x: Expr) -> Expr:
    is_steep, angle = _arc(x)
    whole = select(is_steep, math.pi / 2 - 2 * angle, angle)
    return select(x < 0, -whole, whole)


def _acos(x: Expr) -> Expr:
    is_steep, angle = _arc(x)
    near = math.pi / 2 - select(x < 0, -angle, angle)
    return select(is_steep, select(x < 0, math.pi - 2 * angle, 2 * angle), near)


def _arc(x: Expr) -> tuple[Expr, Expr]:
    """Whether |x| > 1/2, and asin |x|, or beyond 1/2 asin(sqrt((1 - |x|) / 2)): half of acos |x|."""
    size = select(x < 0, -x, x)
    is_steep = size > 0.5
    square = select(is_steep, (1 - size) * 0.5, size * size)
    s = select(is_steep, call("sqrt", square), size)
    return is_steep, s + s * (square * _polynomial(square, ASIN))


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    value: Expr = scalar.literal(coefficients[-1], x.dtype)
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _sinh(x: Expr) -> Expr:
    """2 t / (1 - t^2) with t = tanh(x / 2); from 1 on, exponentials halved so that they overflow
    no earlier than the result.
    """
    t = call("tanh", 0.5 * x)
    far = exp(x - math.log(2)) - exp(-x - math.log(2))
    return select(call("abs", x) < 1, 2 * t / (1 - t * t), far)


def _asinh(x: Expr) -> Expr:
    """log(t + sqrt(t^2 + 1)) = log(1 + (t + t^2 / (1 + sqrt(t^2 + 1))))."""
    t = select(x < 0, -x, x)
    square = t * t
    near = _log1p(t + square / (1 + call("sqrt", square + 1)))
    whole = select(t < LARGE, near, call("log", t) + math.log(2))
    return select(x < 0, -whole, whole)


def _where_it_grows(t: Expr, other: Expr) -> Expr:
    """(x - 1)(x + 1), and a number below 0 wherever x < 1: x < -1 has no acosh either."""
    return t * call("max", other, 2.0)


def _acosh(x: Expr) -> Expr:
    """log(x + sqrt(x^2 - 1)) = log(1 + (t + sqrt(t (t + 2)))) with t = x - 1."""
    t = x - 1
    near = _log1p(t + call("sqrt", _where_it_grows(t, t + 2)))
    return select(x < LARGE, near, call("log", x) + math.log(2))


def _atanh(x: Expr) -> Expr:
    """log((1 + x) / (1 - x)) / 2 = log(1 + 2 x / (1 - x)) / 2."""
    return 0.5 * _log1p(2 * x / (1 - x))


def _in_float32(formula: Formula) -> Callable[..., Expr]:
    """The formula; of narrow floats evaluated in float32."""
    return in_float32(lambda _attrs, x: formula(x))


# name -> formula, slope, meaning
FUNCTIONS: Final[dict[str, tuple[Formula, Formula, str]]] = {
    "asin": (
        _asin,
        lambda x: 1 / call("sqrt", (1 - x) * (1 + x)),
        "the angle in [-pi/2, pi/2] whose sine is x",
    ),
    "acos": (
        _acos,
        lambda x: -1 / call("sqrt", (1 - x) * (1 + x)),
        "the angle in [0, pi] whose cosine is x",
    ),
    "atan": (_atan, lambda x: 1 / (1 + x * x), "the angle in [-pi/2, pi/2] whose tangent is x"),
    "sinh": (_sinh, lambda x: 0.5 * exp(x) + 0.5 * exp(-x), "(exp(x) - exp(-x)) / 2"),
    "asinh": (_asinh, lambda x: 1 / call("sqrt", x * x + 1), "the number whose sinh is x"),
    "acosh": (
        _acosh,
        lambda x: 1 / call("sqrt", _where_it_grows(x - 1, x + 1)),
        "the number >= 0 whose cosh is x",
    ),
    "atanh": (_atanh, lambda x: 1 / ((1 - x) * (1 + x)), "the number whose tanh is x"),
}


def _of_argument(slope: Formula) -> Slope:
    return in_float32(lambda _attrs, x, _result: slope(x))


for _name, (_formula, _slope, _doc) in FUNCTIONS.items():
    elementwise(_name, 1, _in_float32(_formula), _doc, kinds="f", slope=_of_argument(_slope))


@dataclass(frozen=True)
class BitcastAttrs:
    dtype: DType


def _bitcast(attrs: BitcastAttrs, x: Expr) -> Expr:
    """Truth values are the bytes 0 and 1."""
    bits = scalar.cast(x, UINT8) if x.dtype is BOOL else x
    if bits.dtype.bytes != attrs.dtype.bytes or attrs.dtype is BOOL:
        raise TypeError(f"the bits of {x.dtype.value} are no {attrs.dtype.value}")
    return bits if bits.dtype is attrs.dtype else Bitcast(bits, attrs.dtype)


elementwise("bitcast", 1, _bitcast, "the same bits as another dtype of the same size", attrs=BitcastAttrs, kinds="fib",
            vjp=NotDifferentiable("bits are integers"))  # fmt: skip
