"""Conversions, ``cast_int64_float32(x)`` and ``bitcast_float32_int32(x)``: ``Cast`` and
``Bitcast`` of compiler/scalar/.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ....tensor_type import BOOL, FLOAT32, INT32, UINT32, DType
from ...cpu.lowering.representation import I16, I32
from .define import Operand, assembly, define, llvm_type, numba_type
from .scalars import ordered


def cast(rest: str) -> Any:
    source, target = (DType(name) for name in rest.split("_"))
    return define(
        numba_type(target), [numba_type(source)], lambda b, x: converted(b, x, source, target)
    )


def bitcast(rest: str) -> Any:
    source, target = (DType(name) for name in rest.split("_"))
    return define(
        numba_type(target), [numba_type(source)], lambda b, x: b.bitcast(x, llvm_type(target))
    )


def converted(b: Any, x: Operand, source: DType, target: DType) -> Operand:
    """``Cast`` of compiler/scalar/; small floats go through float32."""
    kind = llvm_type(target)
    match source, target:
        case _ if source is target:
            return x
        case (DType.FLOAT16, _):
            wide = assembly(b, ir.FloatType(), "cvt.f32.f16 $0, $1;", "=f,h", x)
            return converted(b, wide, FLOAT32, target)
        case (DType.BFLOAT16, _):
            wide = b.bitcast(b.shl(b.zext(x, I32), I32(16)), ir.FloatType())
            return converted(b, wide, FLOAT32, target)
        case (DType.FLOAT64, DType.FLOAT16):
            return assembly(b, I16, "cvt.rn.f16.f64 $0, $1;", "=h,d", x)
        case (_, DType.FLOAT16):
            return assembly(
                b, I16, "cvt.rn.f16.f32 $0, $1;", "=h,f", converted(b, x, source, FLOAT32)
            )
        case (_, DType.BFLOAT16):
            return to_bfloat16(b, converted(b, x, source, FLOAT32))
        case (_, DType.BOOL) if source.is_float:
            return b.fcmp_unordered("!=", x, ir.Constant(x.type, 0.0))
        case (_, DType.BOOL):
            return b.icmp_unsigned("!=", x, ir.Constant(x.type, 0))
        case (DType.BOOL, _) if not target.is_float:
            return b.zext(x, kind)
        case _ if source.is_float and target.is_float:
            return b.fpext(x, kind) if source.bytes < target.bytes else b.fptrunc(x, kind)
        case _ if source.is_float:
            return _to_integer(b, x, source, target)
        case _ if target.is_float:
            return (
                b.sitofp(x, kind) if source.is_signed and source is not BOOL else b.uitofp(x, kind)
            )
    if source.bytes == target.bytes:
        return x
    if source.bytes > target.bytes:
        return b.trunc(x, kind)
    return b.sext(x, kind) if source.is_signed else b.zext(x, kind)


def to_bfloat16(b: Any, x: Operand) -> Operand:
    """The upper half, rounded to nearest, halves to even; a NaN stays one."""
    bits = b.bitcast(x, I32)
    last = b.and_(b.lshr(bits, I32(16)), I32(1))
    rounded = b.add(bits, b.add(last, I32(0x7FFF)))
    quiet = b.or_(bits, I32(0x400000))
    return b.trunc(b.lshr(b.select(b.fcmp_unordered("uno", x, x), quiet, rounded), I32(16)), I16)


def _to_integer(b: Any, x: Operand, source: DType, target: DType) -> Operand:
    """Truncated and clamped; NaN gives 0."""
    wide = target if target.bytes >= 4 else (INT32 if target.is_signed else UINT32)
    name = ("s" if wide.is_signed else "u") + str(wide.bytes * 8)
    registers = ("=l" if wide.bytes == 8 else "=r") + ("," + ("f" if source is FLOAT32 else "d"))
    kind = llvm_type(wide)
    value = assembly(b, kind, f"cvt.rzi.{name}.f{source.bytes * 8} $0, $1;", registers, x)
    value = b.select(b.fcmp_unordered("uno", x, x), ir.Constant(kind, 0), value)
    if wide is target:
        return value
    bits = target.bytes * 8
    top = (1 << (bits - 1)) - 1 if target.is_signed else (1 << bits) - 1
    value = b.select(
        ordered(b, wide, ">", value, ir.Constant(kind, top)), ir.Constant(kind, top), value
    )
    if target.is_signed:
        low = -top - 1
        value = b.select(
            b.icmp_signed("<", value, ir.Constant(kind, low)), ir.Constant(kind, low), value
        )
    return b.trunc(value, llvm_type(target))


FAMILIES = {"cast": cast, "bitcast": bitcast}
