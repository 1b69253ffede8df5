"""A value in one dtype -> the same in another, without calls of a library.

Floats round to nearest, halves to even; from floats to integers they truncate and saturate, and NaN
gives 0; integers wrap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from ....tensor_type import BFLOAT16, BOOL, FLOAT16, FLOAT32, DType
from .function import Function
from .representation import (
    I16,
    I32,
    I64,
    Operand,
    constant,
    is_vector,
    like,
    suffix,
    value_type,
    zero_of,
)


def cast(f: Function, value: Operand, source: DType, target: DType) -> Operand:
    """A value converted; itself where the dtype stays."""
    if source is target:
        return value
    if BFLOAT16 in (source, target):
        return _cast_bfloat16(f, value, source, target)
    if FLOAT16 in (source, target) and "f16c" not in f.cpu.required:
        return _cast_float16(f, value, source, target)
    if target is BOOL:
        compare = f.b.fcmp_unordered if source.is_float else f.b.icmp_unsigned
        return compare("!=", value, zero_of(value))
    match source.is_float, target.is_float:
        case True, True:
            return _between_floats(f, value, source, target)
        case True, False:
            return _float_to_integer(f, value, target)
        case False, True:
            kind = like(value, value_type(target))
            return f.b.sitofp(value, kind) if source.is_signed else f.b.uitofp(value, kind)
    return _between_integers(f, value, source, target)


def _between_floats(f: Function, value: Operand, source: DType, target: DType) -> Operand:
    kind = like(value, value_type(target))
    if source is FLOAT16 and target.bytes == 8:  # in one step it is a library call
        return cast(f, cast(f, value, source, FLOAT32), FLOAT32, target)
    if target is FLOAT16 and source.bytes == 8:
        return f.b.fptrunc(_rounded_to_odd(f, value), kind)
    return f.b.fpext(value, kind) if source.bytes < target.bytes else f.b.fptrunc(value, kind)


def _float_to_integer(f: Function, value: Operand, target: DType) -> Operand:
    if is_vector(value):
        return _saturated(f, value, target)
    kind = like(value, value_type(target))
    name = "llvm.fptosi.sat" if target.is_signed else "llvm.fptoui.sat"
    function = f.intrinsic(f"{name}.{suffix(kind)}.{suffix(value.type)}", kind, [value.type])
    return f.b.call(function, [value])


def _saturated(f: Function, value: Operand, target: DType) -> Operand:
    """A vector as integers, which LLVM would convert lane by lane: brought into their range first.
    Each bound is one instruction of x86's, which gives the bound for a NaN."""
    if value.type.element == ir.HalfType():  # it does not hold every bound
        value = f.b.fpext(value, like(value, ir.FloatType()))
    element, info = value.type.element, np.iinfo(target.numpy)
    most = _largest_within(np.float32 if element == ir.FloatType() else np.float64, int(info.max))
    low, high = constant(value, element, float(info.min)), constant(value, element, most)
    near = f.b.select(f.b.fcmp_ordered(">", value, low), value, low)
    near = f.b.select(f.b.fcmp_ordered("<", near, high), near, high)
    if target.is_signed:
        near = f.b.select(f.b.fcmp_ordered("ord", value, value), near, zero_of(value))
    kind = I64 if target.bytes == 8 else I32
    is_wide = target.bytes >= 4 and not target.is_signed
    convert = f.b.fptoui if is_wide else f.b.fptosi
    result = convert(near, like(value, kind))
    if most < info.max:
        last = constant(value, kind, int(info.max))
        return f.b.select(f.b.fcmp_ordered(">", value, high), last, result)
    return result if target.bytes >= 4 else f.b.trunc(result, like(value, value_type(target)))


def _largest_within(kind: type[np.floating[Any]], bound: int) -> float:
    """The largest float up to a bound."""
    nearest = kind(bound)
    return float(nearest if int(nearest) <= bound else np.nextafter(nearest, kind(0)))


def _between_integers(f: Function, value: Operand, source: DType, target: DType) -> Operand:
    kind = like(value, value_type(target))
    if source is BOOL:
        return f.b.zext(value, kind)
    if source.bytes == target.bytes:
        return value
    if source.bytes > target.bytes:
        return f.b.trunc(value, kind)
    return f.b.sext(value, kind) if source.is_signed else f.b.zext(value, kind)


def _rounded_to_odd(f: Function, value: Operand) -> Operand:
    """float64 -> float32 such that rounding once more, to float16, is right (Boldo and Melquiond
    2008).
    """
    near = f.b.fptrunc(value, like(value, ir.FloatType()))
    back = f.b.fpext(near, value.type)
    bits = f.b.bitcast(near, like(value, I32))
    above = f.b.fcmp_ordered(">", f.unary("llvm.fabs", back), f.unary("llvm.fabs", value))
    towards_zero = f.b.sub(bits, f.b.zext(above, bits.type))
    odd = f.b.or_(towards_zero, constant(value, I32, 1))
    chosen = f.b.select(f.b.fcmp_ordered("!=", back, value), odd, bits)
    return f.b.bitcast(chosen, near.type)


def _cast_bfloat16(f: Function, value: Operand, source: DType, target: DType) -> Operand:
    """bfloat16 is the upper half of a float32, rounded to nearest, halves to even; a NaN stays
    one.
    """
    if source is BFLOAT16:
        wide = f.b.shl(f.b.zext(value, like(value, I32)), constant(value, I32, 16))
        return cast(f, f.b.bitcast(wide, like(value, ir.FloatType())), FLOAT32, target)
    single = cast(f, value, source, FLOAT32)
    bits = f.b.bitcast(single, like(value, I32))
    last = f.b.and_(f.b.lshr(bits, constant(value, I32, 16)), constant(value, I32, 1))
    rounded = f.b.add(bits, f.b.add(last, constant(value, I32, 0x7FFF)))
    quiet = f.b.or_(bits, constant(value, I32, 0x400000))
    chosen = f.b.select(f.b.fcmp_unordered("uno", single, single), quiet, rounded)
    return f.b.trunc(f.b.lshr(chosen, constant(value, I32, 16)), like(value, I16))


def _cast_float16(f: Function, value: Operand, source: DType, target: DType) -> Operand:
    """float16 on CPUs without conversions of it, which would be library calls: its exponent and
    fraction are moved to where float32 has them, and a product or sum in float32 rounds to
    nearest, halves to even, denormals too."""
    if source is FLOAT16:
        return cast(f, _widened_float16(f, value), FLOAT32, target)
    if source.is_float and source.bytes == 8:
        return _narrowed_float16(f, _rounded_to_odd(f, value))
    return _narrowed_float16(f, cast(f, value, source, FLOAT32))


def _widened_float16(f: Function, value: Operand) -> Operand:
    """float16 -> float32."""
    i32, single = like(value, I32), like(value, ir.FloatType())
    bits = f.b.zext(f.b.bitcast(value, like(value, I16)), i32)
    magnitude = f.b.and_(bits, constant(value, I32, 0x7FFF))
    shifted = f.b.shl(magnitude, constant(value, I32, 13))
    scaled = f.b.fmul(f.b.bitcast(shifted, single), constant(value, ir.FloatType(), 2.0**112))
    is_finite = f.b.icmp_unsigned("<", magnitude, constant(value, I32, 0x7C00))
    special = f.b.or_(shifted, constant(value, I32, 0x7F800000))
    whole = f.b.select(is_finite, f.b.bitcast(scaled, i32), special)
    sign = f.b.shl(f.b.and_(bits, constant(value, I32, 0x8000)), constant(value, I32, 16))
    return f.b.bitcast(f.b.or_(whole, sign), single)


def _narrowed_float16(f: Function, value: Operand) -> Operand:
    """float32 -> float16."""
    i32, single = like(value, I32), like(value, ir.FloatType())
    bits = f.b.bitcast(value, i32)
    magnitude = f.b.and_(bits, constant(value, I32, 0x7FFFFFFF))
    # A power of two that is 2^13 times the last place of the result: added, it leaves the rounded
    # digits at the end.
    exponent = f.b.and_(magnitude, constant(value, I32, 0x7F800000))
    least = constant(value, I32, 113 << 23)
    exponent = f.b.select(f.b.icmp_unsigned("<", exponent, least), least, exponent)
    unit = f.b.add(exponent, constant(value, I32, 13 << 23))
    total = f.b.fadd(f.b.bitcast(magnitude, single), f.b.bitcast(unit, single))
    digits = f.b.sub(f.b.bitcast(total, i32), unit)
    biased = f.b.lshr(f.b.sub(exponent, least), constant(value, I32, 13))
    finite = f.b.add(digits, biased)
    is_large = f.b.icmp_unsigned(">=", magnitude, constant(value, I32, 0x477FF000))
    is_nan = f.b.icmp_unsigned(">", magnitude, constant(value, I32, 0x7F800000))
    special = f.b.select(is_nan, constant(value, I32, 0x7E00), constant(value, I32, 0x7C00))
    whole = f.b.select(is_large, special, finite)
    sign = f.b.and_(f.b.lshr(bits, constant(value, I32, 16)), constant(value, I32, 0x8000))
    return f.b.bitcast(
        f.b.trunc(f.b.or_(whole, sign), like(value, I16)), like(value, ir.HalfType())
    )


__all__ = ["cast"]
