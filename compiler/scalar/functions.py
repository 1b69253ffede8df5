"""The scalar functions, one row each: NumPy meaning, result dtype and partial derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tensor_type import BOOL, DType
from . import arrays
from .expression import SCALAR_FUNCTIONS, Expr, Number, ScalarFunction, call


def _define(function: ScalarFunction) -> None:
    if function.name in SCALAR_FUNCTIONS:
        raise ValueError(f"scalar function {function.name} is defined twice")
    SCALAR_FUNCTIONS[function.name] = function


def _bool(_: Sequence[DType]) -> DType:
    return BOOL


def exp(x: Number) -> Expr:
    return call("exp", x)


def select(condition: Expr, x: Number, y: Number) -> Expr:
    """``x`` where the condition holds, else ``y`` (both are evaluated)."""
    return call("select", condition, x, y)


def maximum(x: Number, y: Number) -> Expr:
    return call("max", x, y)


def minimum(x: Number, y: Number) -> Expr:
    return call("min", x, y)


def _power_slopes(r: Expr, x: Expr, y: Expr) -> tuple[Expr, Expr]:
    """y x^(y - 1) and x^y log(x); where x^0 is 1 and 0^y is 0 for any x and y around, both are 0."""
    by_base = select(call("equal", y, 0.0), 0.0, y * call("pow", x, y - 1.0))
    is_zero = call("and", call("equal", x, 0.0), 0.0 <= y)
    return by_base, select(is_zero, 0.0, r * call("log", x))


for _entry in (
    ScalarFunction("add", 2, np.add, derivative=lambda r, x, y: (1, 1), commutative=True,
                   identity=0.0, doc="x + y"),
    ScalarFunction("sub", 2, np.subtract, derivative=lambda r, x, y: (1, -1), doc="x - y"),
    ScalarFunction("mul", 2, np.multiply, derivative=lambda r, x, y: (y, x), commutative=True,
                   identity=1.0, doc="x * y"),
    ScalarFunction("div", 2, arrays.divide, derivative=lambda r, x, y: (1.0 / y, -r / y),
                   doc="x / y; integers truncate, and x / 0 is 0"),
    ScalarFunction("rem", 2, arrays.remainder,
                   derivative=lambda r, x, y: (1, -call("trunc", x / y)),
                   doc="x - y * trunc(x / y); integer x % 0 is 0"),
    ScalarFunction("fma", 3, arrays.fma, "f", derivative=lambda r, x, y, z: (y, x, 1),
                   doc="x * y + z, rounded once"),
    ScalarFunction("neg", 1, np.negative, derivative=lambda r, x: (-1,), doc="-x"),
    ScalarFunction("abs", 1, np.abs, derivative=lambda r, x: (call("sign", x),), doc="|x|"),
    ScalarFunction("sign", 1, np.sign, doc="-1, 0 or 1; NaN stays"),
    ScalarFunction("max", 2, arrays.maximum, "fi", derivative=lambda r, x, y: (y <= x, x < y),
                   commutative=True, doc="the larger; NaN passes"),
    ScalarFunction("min", 2, arrays.minimum, "fi", derivative=lambda r, x, y: (x <= y, y < x),
                   commutative=True, doc="the smaller; NaN passes"),
    ScalarFunction("exp", 1, arrays.in_float64(np.exp), "f", derivative=lambda r, x: (r,),
                   doc="e to the x"),
    ScalarFunction("log", 1, arrays.in_float64(np.log), "f", derivative=lambda r, x: (1.0 / x,),
                   doc="natural logarithm"),
    ScalarFunction("sqrt", 1, arrays.in_float64(np.sqrt), "f", derivative=lambda r, x: (0.5 / r,),
                   doc="square root"),
    ScalarFunction("pow", 2, arrays.in_float64(np.power), "f",
                   derivative=_power_slopes,
                   doc="x to the y"),
    ScalarFunction("tanh", 1, arrays.in_float64(np.tanh), "f",
                   derivative=lambda r, x: (1.0 - r * r,),
                   doc="hyperbolic tangent"),
    ScalarFunction("erf", 1, arrays.in_float64(arrays.erf), "f",
                   derivative=lambda r, x: (1.1283791670955126 * exp(-(x * x)),),
                   doc="error function"),
    ScalarFunction("sin", 1, arrays.in_float64(np.sin), "f",
                   derivative=lambda r, x: (call("cos", x),),
                   doc="sine"),
    ScalarFunction("cos", 1, arrays.in_float64(np.cos), "f",
                   derivative=lambda r, x: (-call("sin", x),),
                   doc="cosine"),
    ScalarFunction("floor", 1, np.floor, "f", doc="largest integer not above x"),
    ScalarFunction("ceil", 1, np.ceil, "f", doc="smallest integer not below x"),
    ScalarFunction("round", 1, np.rint, "f", doc="nearest integer, halves to even"),
    ScalarFunction("trunc", 1, np.trunc, "f", doc="x without its fraction"),
    ScalarFunction("equal", 2, np.equal, "fib", _bool, commutative=True, doc="x == y"),
    ScalarFunction("not_equal", 2, np.not_equal, "fib", _bool, commutative=True, doc="x != y"),
    ScalarFunction("less", 2, np.less, "fi", _bool, doc="x < y"),
    ScalarFunction("less_equal", 2, np.less_equal, "fi", _bool, doc="x <= y"),
    ScalarFunction("and", 2, np.bitwise_and, "ib", commutative=True,
                   doc="bitwise (bool: logical) and"),
    ScalarFunction("or", 2, np.bitwise_or, "ib", commutative=True,
                   doc="bitwise (bool: logical) or"),
    ScalarFunction("xor", 2, np.bitwise_xor, "ib", commutative=True,
                   doc="bitwise (bool: logical) exclusive or"),
    ScalarFunction("not", 1, np.invert, "ib", doc="bitwise (bool: logical) not"),
    ScalarFunction("shift_left", 2, arrays.shift_left, "i",
                   doc="x << y; 0 when y is not in [0, bits)"),
    ScalarFunction("shift_right", 2, arrays.shift_right, "i",
                   doc="x >> y (arithmetic if signed); 0 when y is not in [0, bits)"),
    ScalarFunction("dot_bytes", 3, arrays.dot_bytes, "i",
                   doc="z + the sum of products of x's bytes, unsigned, and y's, signed",
                   is_op=False),
    ScalarFunction("select", 3, np.where, "fib", lambda dtypes: dtypes[1],
                   lambda r, c, x, y: (None, c, call("not", c)), doc="x where c holds, else y"),
):  # fmt: skip
    _define(_entry)
