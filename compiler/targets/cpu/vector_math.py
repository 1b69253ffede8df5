"""exp, log, tanh, erf, sin, cos and pow as trees of primitives: compiled code calls no mathematical library.

``expand_all`` rewrites an expression so that only adds, products, fma, comparisons, selects and bit operations are left.
Everything is evaluated in float64 and rounded once, lane by lane, without branches or tables: arguments are reduced
(Cody and Waite 1980) and Taylor series, whose remainder is below the bound, do the rest. Bounds, in units in the last place
of the result's dtype: ``ULP_BOUNDS``. For float32 and smaller the rounding at the end is nearly all of the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from ... import scalar
from ...scalar import Bitcast, Call, Expr, call, literal, select
from ...tensor_type import FLOAT32, FLOAT64, INT64, DType

ULP_BOUNDS: dict[tuple[str, DType], float] = {
    **{(name, FLOAT32): 1.0 for name in ("exp", "log", "tanh", "erf", "sin", "cos", "pow")},
    ("exp", FLOAT64): 4.0, ("log", FLOAT64): 4.0, ("tanh", FLOAT64): 8.0,
}  # fmt: skip

_LN2_HI = 6.93147180369123816490e-01  # its low 32 bits are zero: products with small integers are exact
_LN2_LO = 1.90821492927058770002e-10
_PI_2 = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)


def expand_all(root: Expr) -> Expr:
    """The expression with every call of a mathematical function expanded."""
    return scalar.rebuild(root, _expanded_leaf(root))


def _expanded_leaf(root: Expr) -> Callable[[Expr], Expr | None]:
    done: dict[int, Expr] = {}
    for node in scalar.post_order([root]):
        arguments = [done[id(child)] for child in scalar.children(node)]
        same = all(a is b for a, b in zip(arguments, scalar.children(node), strict=True))
        new = node if same else scalar.with_children(node, arguments)
        done[id(node)] = _expand(new) if isinstance(new, Call) else new
    return lambda node: done[id(node)] if node is root else None


def _expand(node: Call) -> Expr:
    function = _FUNCTIONS.get(node.function)
    if function is None:
        return node
    wide = [scalar.cast(argument, FLOAT64) for argument in node.arguments]
    return scalar.cast(function(node.dtype is FLOAT64, *wide), node.dtype)


def _number(value: float) -> Expr:
    return literal(value, FLOAT64)


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """c0 + c1 x + c2 x^2 + … in fma steps."""
    total = _number(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = call("fma", total, x, coefficient)
    return total


def _power_of_two(n: Expr) -> Expr:
    """2^n for an integral float64 n in [-1022, 1023]."""
    return Bitcast(call("shift_left", scalar.cast(n, INT64) + 1023, 52), FLOAT64)


def _reduced(x: Expr) -> tuple[Expr, Expr]:
    """n, r with x = n ln2 + r and |r| <= ln2 / 2."""
    n = call("round", x * (1 / math.log(2)))
    return n, call("fma", n, _number(-_LN2_LO), call("fma", n, _number(-_LN2_HI), x))


def _exp(precise: bool, x: Expr) -> Expr:
    """e^x = 2^n e^r; the scale is applied in two halves, so that results may be infinite or denormal."""
    limited = select(x > 800.0, 800.0, select(x < -800.0, -800.0, x))
    n, r = _reduced(limited)
    terms = 14 if precise else 9
    value = _horner(r, [float(Fraction(1, math.factorial(k))) for k in range(terms)])
    half = call("floor", n * 0.5)
    return value * _power_of_two(half) * _power_of_two(n - half)


def _log(precise: bool, x: Expr) -> Expr:
    """log x = e ln2 + 2 atanh(f / (2 + f)), x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)."""
    is_small = x < 2.2250738585072014e-308
    scaled = select(is_small, x * 2.0**54, x)
    bits = Bitcast(scaled, INT64)
    shifted = bits - 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2)
    e = call("shift_right", shifted, 52)
    mantissa = Bitcast(bits - call("shift_left", e, 52), FLOAT64)
    exponent = scalar.cast(e, FLOAT64) - select(is_small, _number(54.0), 0.0)
    f = mantissa - 1.0
    s = f / (f + 2.0)
    z = s * s
    series = _horner(z, [2.0 / (2 * k + 1) for k in range(1, 11 if precise else 6)])
    body = call("fma", s * z, series, call("fma", exponent, _number(_LN2_LO), 2.0 * s))
    value = call("fma", exponent, _number(_LN2_HI), body)
    special = select(call("equal", x, 0.0), -math.inf, select(x < 0.0, math.nan, x))
    ordinary = call("and", x > 0.0, x < math.inf)
    return select(ordinary, value, special)


def _tanh(precise: bool, x: Expr) -> Expr:
    """sign(x) u / (u + 2), u = e^(2|x|) - 1, by its series near zero."""
    size = call("abs", x)
    twice = scalar.minimum(size * 2.0, 80.0)
    series = twice * _horner(twice, [float(Fraction(1, math.factorial(k + 1))) for k in range(16 if precise else 10)])
    u = select(twice < 0.5, series, _exp(precise, twice) - 1.0)
    return _with_sign(u / (u + 2.0), x)


def _with_sign(size: Expr, x: Expr) -> Expr:
    """A size with the sign of x (zero keeps its sign, NaN stays)."""
    sign = call("and", Bitcast(x, INT64), -(1 << 63))
    signed = Bitcast(call("or", Bitcast(size, INT64), sign), FLOAT64)
    return select(call("equal", x, x), signed, x)


def _erf_coefficients() -> list[float]:
    """erf on [1, 4] as a polynomial in t = (2 x - 5) / 3: Chebyshev interpolation, coefficients to 13 digits."""
    degree = 24
    nodes = [math.cos(math.pi * (k + 0.5) / (degree + 1)) for k in range(degree + 1)]
    values = [math.erf((3 * t + 5) / 2) for t in nodes]
    chebyshev = []
    for j in range(degree + 1):
        angle = [math.cos(math.pi * j * (k + 0.5) / (degree + 1)) for k in range(degree + 1)]
        chebyshev.append(math.fsum(v * a for v, a in zip(values, angle, strict=True)) * (1 if j == 0 else 2) / (degree + 1))
    power = np.polynomial.chebyshev.cheb2poly(np.asarray(chebyshev))
    return [float(f"{c:.13g}") for c in power]


_ERF = _erf_coefficients()


def _erf(_precise: bool, x: Expr) -> Expr:
    """The Taylor series up to 1, a polynomial up to 4, then 1 (to float32's precision)."""
    size = scalar.minimum(call("abs", x), 4.0)
    z = size * size
    scale = Fraction(2.0 / math.sqrt(math.pi))
    taylor = [float(scale * Fraction((-1) ** k, math.factorial(k) * (2 * k + 1))) for k in range(14)]
    near = size * _horner(z, taylor)
    far = _horner((2.0 * size - 5.0) * (1 / 3), _ERF)
    return _with_sign(select(size < 1.0, near, select(size < 4.0, far, 1.0)), x)


def _turned(x: Expr) -> tuple[Expr, Expr, Expr]:
    """The quadrant (0 to 3), sin r and cos r, for x = quadrant * pi/2 + r. Exact enough for |x| up to 1e5."""
    n = call("round", x * (2 / math.pi))
    r = x
    for part in _PI_2:
        r = call("fma", n, _number(-part), r)
    z = r * r
    sine = r * _horner(z, [float(Fraction((-1) ** k, math.factorial(2 * k + 1))) for k in range(9)])
    cosine = _horner(z, [float(Fraction((-1) ** k, math.factorial(2 * k))) for k in range(9)])
    return call("and", scalar.cast(n, INT64), 3), sine, cosine


def _sine(shift: int, x: Expr) -> Expr:
    quadrant, sine, cosine = _turned(x)
    turned = call("and", quadrant + shift, 3)
    swapped = call("equal", call("and", turned, 1), 1)
    value = select(swapped, cosine, sine)
    signed = select(turned >= 2, -value, value)
    return select(call("abs", x) < math.inf, signed, math.nan)


def _pow(precise: bool, x: Expr, y: Expr) -> Expr:
    """e^(y log|x|), with the sign and the special cases of C's pow."""
    size = _exp(precise, y * _log(precise, call("abs", x)))
    is_whole = call("equal", call("trunc", y), y)
    half = y * 0.5
    is_odd = call("and", is_whole, call("not_equal", call("trunc", half), half))
    is_negative = Bitcast(x, INT64) < 0
    signed = select(call("and", is_negative, is_odd), -size, size)
    invalid = call("and", call("and", x < 0.0, x > -math.inf), call("not", is_whole))
    value = select(invalid, math.nan, signed)
    unit = call("and", call("equal", call("abs", x), 1.0), call("equal", call("abs", y), math.inf))
    one = call("or", call("or", call("equal", y, 0.0), call("equal", x, 1.0)), unit)
    return select(one, 1.0, value)


_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "exp": _exp,
    "log": _log,
    "tanh": _tanh,
    "erf": _erf,
    "sin": lambda _precise, x: _sine(0, x),
    "cos": lambda _precise, x: _sine(1, x),
    "pow": _pow,
}
