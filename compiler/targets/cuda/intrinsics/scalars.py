"""Scalar functions, ``add_float32(a, b)``: one dtype in and out, comparisons aside.

Sums and products of floats round once each (never contracted); integers wrap, and no division
traps.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32, DType
from .define import Emit, Operand, assembly, called, define, numba_type


def scalar(function: str, dtype: DType) -> Any:
    emit = (FLOAT if dtype.is_float else _INTEGER)[function]
    kind = numba_type(dtype)
    if function in _COMPARISONS:
        return define(types.boolean, [kind, kind], lambda b, x, y: emit(b, dtype, x, y))
    if function == "select":
        return define(kind, [types.boolean, kind, kind], lambda b, c, x, y: b.select(c, x, y))
    arity = 3 if function == "fma" else (2 if function in _BINARY else 1)
    return define(kind, [kind] * arity, lambda b, *x: emit(b, dtype, *x))


def _suffix(dtype: DType) -> str:
    return "f" if dtype is FLOAT32 else "d"


def rounded_once(operation: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        return called(b, f"llvm.nvvm.{operation}.rn.{_suffix(t)}", x.type, x, y)

    return emit


def subtract(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
    return called(b, f"llvm.nvvm.add.rn.{_suffix(t)}", x.type, x, _negated(b, t, y))


def _negated(b: Any, _t: DType, x: Operand) -> Operand:
    return b.fsub(ir.Constant(x.type, -0.0), x)  # libNVVM's LLVM is older than fneg


def _unary_ptx(instruction: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand) -> Operand:
        name = "f32" if t is FLOAT32 else "f64"
        register = "f" if t is FLOAT32 else "d"
        return assembly(
            b, x.type, f"{instruction.format(name)} $0, $1;", f"={register},{register}", x
        )

    return emit


def fma(b: Any, t: DType, x: Operand, y: Operand, z: Operand) -> Operand:
    return called(b, f"llvm.fma.f{t.bytes * 8}", x.type, x, y, z)


def _float_remainder(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
    return called(b, "__nv_fmodf" if t is FLOAT32 else "__nv_fmod", x.type, x, y)


def _extreme(order: str) -> Emit:
    """max or min of floats: a NaN in either passes."""

    def emit(b: Any, _t: DType, x: Operand, y: Operand) -> Operand:
        best = b.select(b.fcmp_ordered(order, x, y), x, y)
        return b.select(b.fcmp_unordered("uno", x, x), x, best)

    return emit


def _integer_extreme(order: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        return b.select(ordered(b, t, order, x, y), x, y)

    return emit


def ordered(b: Any, t: DType, order: str, x: Operand, y: Operand) -> Operand:
    return b.icmp_signed(order, x, y) if t.is_signed else b.icmp_unsigned(order, x, y)


def _integer_division(remainder: bool) -> Emit:
    """Never traps: x / 0 is 0, and the least integer by -1 wraps."""

    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        zero, one = ir.Constant(y.type, 0), ir.Constant(y.type, 1)
        is_zero = b.icmp_unsigned("==", y, zero)
        if not t.is_signed:
            safe = b.select(is_zero, one, y)
            return b.select(is_zero, zero, b.urem(x, safe) if remainder else b.udiv(x, safe))
        is_minus = b.icmp_signed("==", y, ir.Constant(y.type, -1))
        safe = b.select(b.or_(is_zero, is_minus), one, y)
        value = b.srem(x, safe) if remainder else b.sdiv(x, safe)
        value = b.select(is_minus, zero if remainder else b.sub(zero, x), value)
        return b.select(is_zero, zero, value)

    return emit


def _shift(right: bool) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        is_inside = b.icmp_unsigned("<", y, ir.Constant(y.type, t.bytes * 8))
        by = b.select(is_inside, y, ir.Constant(y.type, 0))
        shifted = (b.ashr(x, by) if t.is_signed else b.lshr(x, by)) if right else b.shl(x, by)
        return b.select(is_inside, shifted, ir.Constant(x.type, 0))

    return emit


def _float_sign(b: Any, _t: DType, x: Operand) -> Operand:
    zero, one, minus = (ir.Constant(x.type, v) for v in (0.0, 1.0, -1.0))
    return b.select(
        b.fcmp_ordered("<", x, zero), minus, b.select(b.fcmp_ordered(">", x, zero), one, x)
    )


def _integer_sign(b: Any, t: DType, x: Operand) -> Operand:
    zero = ir.Constant(x.type, 0)
    above = b.zext(b.icmp_unsigned("!=", x, zero), x.type)
    return (
        b.select(b.icmp_signed("<", x, zero), ir.Constant(x.type, -1), above)
        if t.is_signed
        else above
    )


def _integer_abs(b: Any, t: DType, x: Operand) -> Operand:
    zero = ir.Constant(x.type, 0)
    return b.select(b.icmp_signed("<", x, zero), b.sub(zero, x), x) if t.is_signed else x


def _float_compare(order: str) -> Emit:
    def emit(b: Any, _t: DType, x: Operand, y: Operand) -> Operand:
        return b.fcmp_unordered("!=", x, y) if order == "!=" else b.fcmp_ordered(order, x, y)

    return emit


def _integer_compare(order: str) -> Emit:
    def emit(b: Any, t: DType, x: Operand, y: Operand) -> Operand:
        return ordered(b, t, order, x, y)

    return emit


_COMPARISONS = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<="}
_BINARY = frozenset(
    (
        "add",
        "sub",
        "mul",
        "div",
        "rem",
        "max",
        "min",
        "and",
        "or",
        "xor",
        "shift_left",
        "shift_right",
    )
)
FLOAT: dict[str, Emit] = {
    "add": rounded_once("add"),
    "sub": subtract,
    "mul": rounded_once("mul"),
    "div": lambda b, t, x, y: b.fdiv(x, y),
    "rem": _float_remainder,
    "fma": fma,
    "neg": _negated,
    "abs": _unary_ptx("abs.{}"),
    "sign": _float_sign,
    "max": _extreme(">"),
    "min": _extreme("<"),
    "sqrt": _unary_ptx("sqrt.rn.{}"),
    "floor": _unary_ptx("cvt.rmi.{0}.{0}"),
    "ceil": _unary_ptx("cvt.rpi.{0}.{0}"),
    "round": _unary_ptx("cvt.rni.{0}.{0}"),
    "trunc": _unary_ptx("cvt.rzi.{0}.{0}"),
    "select": lambda b, t, c, x, y: b.select(c, x, y),
    **{name: _float_compare(sign) for name, sign in _COMPARISONS.items()},
}
_INTEGER: dict[str, Emit] = {
    "add": lambda b, t, x, y: b.add(x, y),
    "sub": lambda b, t, x, y: b.sub(x, y),
    "mul": lambda b, t, x, y: b.mul(x, y),
    "div": _integer_division(False),
    "rem": _integer_division(True),
    "neg": lambda b, t, x: b.sub(ir.Constant(x.type, 0), x),
    "abs": _integer_abs,
    "sign": _integer_sign,
    "max": _integer_extreme(">"),
    "min": _integer_extreme("<"),
    "and": lambda b, t, x, y: b.and_(x, y),
    "or": lambda b, t, x, y: b.or_(x, y),
    "xor": lambda b, t, x, y: b.xor(x, y),
    "not": lambda b, t, x: b.not_(x),
    "shift_left": _shift(False),
    "shift_right": _shift(True),
    "select": lambda b, t, c, x, y: b.select(c, x, y),
    **{name: _integer_compare(sign) for name, sign in _COMPARISONS.items()},
}
