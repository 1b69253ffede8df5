"""Threads, barriers and int32 indices: ``thread()``, ``plus(i, j)``, ``below(i, n)``. No index
becomes 64 bits wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from .define import Emit, Operand, called, define, pointer_type
from .memory import element_at


def _special(register: str) -> Callable[[], Any]:
    return lambda: define(
        types.int32, [], lambda b: called(b, f"llvm.nvvm.read.ptx.sreg.{register}", I32)
    )


def _special_again(register: str) -> Callable[[], Any]:
    """Read anew: neither it nor what follows from it stays in registers from an earlier read."""

    def emit(b: Any) -> Operand:
        return b.asm(ir.FunctionType(I32, []), f"mov.u32 $0, %{register};", "=r", [], True)

    return lambda: define(types.int32, [], emit)


def _barrier() -> Any:
    return define(types.void, [], lambda b: called(b, "llvm.nvvm.barrier0", ir.VoidType()) and None)


def _index(emit: Emit) -> Callable[[], Any]:
    return lambda: define(types.int32, [types.int32] * 2, emit)


def _flag(emit: Emit, arguments: int, kind: Any) -> Callable[[], Any]:
    return lambda: define(types.boolean, [kind] * arguments, emit)


def _floor_quotient(b: Any, x: Operand, y: Operand) -> Operand:
    quotient = b.sdiv(x, y)
    rest = b.sub(x, b.mul(quotient, y))
    return b.add(quotient, b.sext(b.icmp_signed("<", rest, I32(0)), I32))


def _floor_remainder(b: Any, x: Operand, y: Operand) -> Operand:
    rest = b.srem(x, y)
    return b.select(b.icmp_signed("<", rest, I32(0)), b.add(rest, y), rest)


def _wrapped() -> Any:
    """A run-time index counted from the end where it is negative."""

    def emit(b: Any, index: Operand, extent: Operand) -> Operand:
        return b.select(b.icmp_signed("<", index, I64(0)), b.add(index, b.sext(extent, I64)), index)

    return define(types.int64, [types.int64, types.int32], emit)


def _within() -> Any:
    def emit(b: Any, index: Operand, extent: Operand) -> Operand:
        return b.icmp_unsigned("<", index, b.sext(extent, I64))

    return define(types.boolean, [types.int64, types.int32], emit)


def _bit() -> Any:
    """``bit(i, condition)``: 1 << i if the condition holds, else 0; i is below 32."""

    def emit(b: Any, number: Operand, condition: Operand) -> Operand:
        return b.select(condition, b.shl(I32(1), number), I32(0))

    return define(types.int32, [types.int32, types.boolean], emit)


def _at() -> Any:
    """``at(p, i)``: the pointer i float32 further."""
    pointer = pointer_type(FLOAT32)
    return define(pointer, [pointer, types.int32], element_at)


PLAIN: dict[str, Callable[[], Any]] = {
    "thread": _special("tid.x"),
    "block": _special("ctaid.x"),
    "thread_again": _special_again("tid.x"),
    "block_again": _special_again("ctaid.x"),
    "barrier": _barrier,
    "at": _at,
    "plus": _index(lambda b, x, y: b.add(x, y, flags=["nsw"])),
    "minus": _index(lambda b, x, y: b.sub(x, y, flags=["nsw"])),
    "times": _index(lambda b, x, y: b.mul(x, y, flags=["nsw"])),
    "quotient": _index(lambda b, x, y: b.udiv(x, y)),
    "remainder": _index(lambda b, x, y: b.urem(x, y)),
    "floor_quotient": _index(_floor_quotient),
    "floor_remainder": _index(_floor_remainder),
    "lesser": _index(lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y)),
    "below": _flag(lambda b, x, y: b.icmp_signed("<", x, y), 2, types.int32),
    "inside": _flag(lambda b, x: b.icmp_signed(">=", x, I32(0)), 1, types.int32),
    "both": _flag(lambda b, x, y: b.and_(x, y), 2, types.boolean),
    "wrapped": _wrapped,
    "within": _within,
    "bit": _bit,
    "meet": _flag(lambda b, x, y: b.icmp_unsigned("!=", b.and_(x, y), I32(0)), 2, types.int32),
}  # fmt: skip
