"""Scalar functions -> instructions, for floats of 4 and 8 bytes and for integers.

A NaN passes max and min; nothing traps. Functions that are not in these tables were made of those
that are (vector_math).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from llvmlite import ir

from ....loops.ir import LANES
from ....tensor_type import DType
from .dots import dot_bytes
from .function import Function
from .representation import I32, Operand, constant, is_vector, lane_type, value_type, zero_of

Emit: TypeAlias = Callable[..., Operand]


def _compare(ordered: str) -> tuple[Emit, Emit]:
    def of_floats(f: Function, _t: DType, x: Operand, y: Operand) -> Operand:
        return (
            f.b.fcmp_unordered("!=", x, y) if ordered == "!=" else f.b.fcmp_ordered(ordered, x, y)
        )

    def of_integers(f: Function, t: DType, x: Operand, y: Operand) -> Operand:
        return f.b.icmp_signed(ordered, x, y) if t.is_signed else f.b.icmp_unsigned(ordered, x, y)

    return of_floats, of_integers


def _extreme(order: str) -> Emit:
    """max or min of floats: a NaN in either passes. The first select is x86's instruction, which
    gives x where y is a NaN; the second does not wait for x, so that a chain of maxima is short,
    and its constant keeps LLVM from making one select of both."""

    def emit(f: Function, _t: DType, x: Operand, y: Operand) -> Operand:
        best = f.b.select(f.b.fcmp_ordered(order, y, x), y, x)
        return f.b.select(f.b.fcmp_unordered("uno", y, y), _nan_of(y), best)

    return emit


def _nan_of(value: Operand) -> ir.Constant:
    """A NaN in as many lanes as a value has, which may be half a vector."""
    return ir.Constant(
        value.type,
        [math.nan] * value.type.count if isinstance(value.type, ir.VectorType) else math.nan,
    )


def _integer_extreme(order: str) -> Emit:
    def emit(f: Function, t: DType, x: Operand, y: Operand) -> Operand:
        less = f.b.icmp_signed(order, x, y) if t.is_signed else f.b.icmp_unsigned(order, x, y)
        return f.b.select(less, x, y)

    return emit


def _integer_division(remainder: bool) -> Emit:
    """Never traps: x / 0 is 0, and the least integer by -1 wraps."""

    def emit(f: Function, t: DType, x: Operand, y: Operand) -> Operand:
        zero = zero_of(y)
        one = constant(y, lane_type(y), 1)
        is_zero = f.b.icmp_unsigned("==", y, zero)
        if not t.is_signed:
            safe = f.b.select(is_zero, one, y)
            value = f.b.urem(x, safe) if remainder else f.b.udiv(x, safe)
            return f.b.select(is_zero, zero, value)
        minus = f.b.icmp_signed("==", y, constant(y, lane_type(y), -1))
        safe = f.b.select(f.b.or_(is_zero, minus), one, y)
        value = f.b.srem(x, safe) if remainder else f.b.sdiv(x, safe)
        value = f.b.select(minus, zero if remainder else f.b.sub(zero, x), value)
        return f.b.select(is_zero, zero, value)

    return emit


def _shift(right: bool) -> Emit:
    def emit(f: Function, t: DType, x: Operand, y: Operand) -> Operand:
        is_inside = f.b.icmp_unsigned("<", y, constant(y, lane_type(x), t.bytes * 8))
        by = f.b.select(is_inside, y, zero_of(y))
        shifted = (f.b.ashr(x, by) if t.is_signed else f.b.lshr(x, by)) if right else f.b.shl(x, by)
        return f.b.select(is_inside, shifted, zero_of(x))

    return emit


def _float_sign(f: Function, _t: DType, x: Operand) -> Operand:
    zero = zero_of(x)
    one = constant(x, lane_type(x), 1)
    above = f.b.select(f.b.fcmp_ordered(">", x, zero), one, x)
    return f.b.select(f.b.fcmp_ordered("<", x, zero), f.b.fneg(one), above)


def _integer_sign(f: Function, t: DType, x: Operand) -> Operand:
    zero = zero_of(x)
    above = f.b.zext(f.b.icmp_unsigned("!=", x, zero), x.type)
    if not t.is_signed:
        return above
    return f.b.select(f.b.icmp_signed("<", x, zero), constant(x, lane_type(x), -1), above)


def _integer_abs(f: Function, t: DType, x: Operand) -> Operand:
    zero = zero_of(x)
    return f.b.select(f.b.icmp_signed("<", x, zero), f.b.sub(zero, x), x) if t.is_signed else x


def _float_rem(f: Function, t: DType, x: Operand, y: Operand) -> Operand:
    """fmod, lane by lane through the library."""
    element = value_type(t)
    function = f.intrinsic("fmodf" if t.bytes == 4 else "fmod", element, [element, element])
    if not is_vector(x):
        return f.b.call(function, [x, y])
    result = x
    for lane in range(LANES):
        one = f.b.call(function, [f.b.extract_element(v, I32(lane)) for v in (x, y)])
        result = f.b.insert_element(result, one, I32(lane))
    return result


def _select(f: Function, _t: DType, c: Operand, x: Operand, y: Operand) -> Operand:
    return f.b.select(c, x, y)


_COMPARISONS = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<="}
_FLOAT: dict[str, Emit] = {
    "add": lambda f, t, x, y: f.b.fadd(x, y),
    "sub": lambda f, t, x, y: f.b.fsub(x, y),
    "mul": lambda f, t, x, y: f.b.fmul(x, y),
    "div": lambda f, t, x, y: f.b.fdiv(x, y),
    "rem": _float_rem,
    "fma": lambda f, t, x, y, z: f.fma(x, y, z),
    "neg": lambda f, t, x: f.b.fneg(x),
    "abs": lambda f, t, x: f.unary("llvm.fabs", x),
    "sign": _float_sign,
    "max": _extreme(">"),
    "min": _extreme("<"),
    "sqrt": lambda f, t, x: f.unary("llvm.sqrt", x),
    "floor": lambda f, t, x: f.rounded("floor", x),
    "ceil": lambda f, t, x: f.rounded("ceil", x),
    "round": lambda f, t, x: f.rounded("roundeven", x),
    "trunc": lambda f, t, x: f.rounded("trunc", x),
    "select": _select,
    **{name: _compare(sign)[0] for name, sign in _COMPARISONS.items()},
}
_INTEGER: dict[str, Emit] = {
    "add": lambda f, t, x, y: f.b.add(x, y),
    "sub": lambda f, t, x, y: f.b.sub(x, y),
    "mul": lambda f, t, x, y: f.b.mul(x, y),
    "div": _integer_division(False),
    "rem": _integer_division(True),
    "neg": lambda f, t, x: f.b.sub(zero_of(x), x),
    "abs": _integer_abs,
    "sign": _integer_sign,
    "max": _integer_extreme(">"),
    "min": _integer_extreme("<"),
    "and": lambda f, t, x, y: f.b.and_(x, y),
    "or": lambda f, t, x, y: f.b.or_(x, y),
    "xor": lambda f, t, x, y: f.b.xor(x, y),
    "not": lambda f, t, x: f.b.not_(x),
    "shift_left": _shift(False),
    "shift_right": _shift(True),
    "dot_bytes": dot_bytes,
    "select": _select,
    **{name: _compare(sign)[1] for name, sign in _COMPARISONS.items()},
}


def primitive(f: Function, function: str, values: list[Operand], dtype: DType) -> Operand:
    """A scalar function on operands of one dtype."""
    emit = (_FLOAT if dtype.is_float else _INTEGER).get(function)
    if emit is None:
        raise TypeError(f"no code for {function} of {dtype.value}")
    return emit(f, dtype, *values)


__all__ = ["primitive"]
