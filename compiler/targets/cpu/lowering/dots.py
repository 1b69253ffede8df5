"""z + the sum of products of x's bytes, unsigned, and y's, signed: one instruction for vectors of
int32 where the CPU has it (VNNI), else sums of products of 16-bit halves, or byte by byte.

All three give the same integers: only the last sum may wrap, and no product does (255 * 128 and two
of them fit 17 bits).
"""

from __future__ import annotations

from llvmlite import ir

from ....loops.ir import LANES
from ....tensor_type import DType
from .function import Function
from .representation import I16, I32, Operand, Undefined, constant, is_vector, lane_type

HALVES = ir.VectorType(I16, 2 * LANES)


def dot_bytes(f: Function, dtype: DType, x: Operand, y: Operand, z: Operand) -> Operand:
    """z + x . y of integers of one dtype."""
    if not is_vector(z) or dtype.bytes != 4:
        return _by_bytes(f, dtype, x, y, z)
    if f.cpu.has_dots:
        kinds = [z.type] * 3
        return f.b.call(f.intrinsic("llvm.x86.avx512.vpdpbusd.512", z.type, kinds), [z, x, y])
    return _by_halves(f, x, y, z)


def _by_bytes(f: Function, dtype: DType, x: Operand, y: Operand, z: Operand) -> Operand:
    bits, element = 8 * dtype.bytes, lane_type(z)
    last = constant(z, element, bits - 8)
    for place in range(0, bits, 8):
        to_end = constant(z, element, bits - 8 - place)
        left = f.b.lshr(f.b.shl(x, to_end), last)
        right = f.b.ashr(f.b.shl(y, to_end), last)
        z = f.b.add(z, f.b.mul(left, right))
    return z


def _by_halves(f: Function, x: Operand, y: Operand, z: Operand) -> Operand:
    """The even and the odd bytes as halves of int32: LLVM makes one instruction of the products of
    two halves and their sum (pmaddwd)."""
    left = f.numbers.once(("halves without a sign", x), lambda: _unsigned_halves(f, x))
    right = f.numbers.once(("halves with a sign", y), lambda: _signed_halves(f, y))
    for pair in zip(left, right, strict=True):
        z = f.b.add(z, _sum_of_pairs(f, *pair))
    return z


def _unsigned_halves(f: Function, x: Operand) -> tuple[Operand, Operand]:
    halves = f.b.bitcast(x, HALVES)
    return f.b.and_(halves, _in_halves(0xFF)), f.b.lshr(halves, _in_halves(8))


def _signed_halves(f: Function, y: Operand) -> tuple[Operand, Operand]:
    halves, eight = f.b.bitcast(y, HALVES), _in_halves(8)
    return f.b.ashr(f.b.shl(halves, eight), eight), f.b.ashr(halves, eight)


def _in_halves(number: int) -> ir.Constant:
    return ir.Constant(HALVES, [number] * HALVES.count)


def _sum_of_pairs(f: Function, left: Operand, right: Operand) -> Operand:
    """Products of halves, those of each pair added up."""
    wide = ir.VectorType(I32, HALVES.count)
    products = f.b.mul(f.b.sext(left, wide), f.b.sext(right, wide))
    order, undefined = ir.VectorType(I32, LANES), Undefined(wide)
    first, second = (
        f.b.shuffle_vector(
            products, undefined, ir.Constant(order, list(range(start, HALVES.count, 2)))
        )
        for start in (0, 1)
    )
    return f.b.add(first, second)


__all__ = ["dot_bytes"]
