"""Memory, the device's and a block's own: ``load_int8(p, i)``, ``store4_float32(p, i, v)``,
``shared_float32_2048()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import BOOL, FLOAT32, DType
from ...cpu.lowering.representation import I8, I32, I64
from .define import (
    Operand,
    define,
    llvm_type,
    numba_type,
    packed,
    pointer_type,
    tile_type,
    unpacked,
)

GLOBAL, SHARED = 1, 3  # LLVM's address spaces of the device's memory and of a block's


def element_at(b: Any, pointer: Operand, index: Operand) -> Operand:
    return b.gep(pointer, [b.sext(index, I64)])


def load(rest: str) -> Any:
    """``load_DTYPE(p, i)``; ``load_if_DTYPE(p, i, condition)`` is 0 where the condition does not
    hold, and reads p[0] there.
    """
    if rest.startswith("if_"):
        return _load_if(DType(rest.removeprefix("if_")))
    dtype = DType(rest)

    def emit(b: Any, pointer: Operand, index: Operand) -> Operand:
        value = b.load(element_at(b, pointer, index))
        return b.icmp_unsigned("!=", value, I8(0)) if dtype is BOOL else value

    return define(numba_type(dtype), [pointer_type(dtype), types.int32], emit)


def global_address(b: Any, pointer: Operand, offset: Operand) -> Operand:
    """Of an element of the device's memory."""
    own = b.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, GLOBAL))
    return b.ptrtoint(element_at(b, own, offset), I64)


def read_where(b: Any, wanted: Operand, place: Operand, offset: int, width: int) -> list[Operand]:
    """``width`` float32 at an address, or zeros where ``wanted`` is 0: one access that happens or
    does not.

    Memory is read that no thread of the kernel writes.
    """
    names = [f"${number}" for number in range(width)]
    found = f"{{{', '.join(names)}}}" if width > 1 else names[0]
    kind = ".v4.f32" if width > 1 else ".f32"
    zeros = " ".join(f"mov.f32 {name}, 0f00000000;" for name in names)
    code = (
        f"{{ .reg .pred %wanted; setp.ne.b32 %wanted, ${width}, 0; {zeros} "
        f"@%wanted ld.global.nc{kind} {found}, [${width + 1}+{offset}]; }}"
    )
    results = ir.LiteralStructType([ir.FloatType()] * width) if width > 1 else ir.FloatType()
    constraints = ",".join(["=&f"] * width + ["r", "l"])
    value = b.asm(ir.FunctionType(results, [I32, I64]), code, constraints, [wanted, place], True)
    return [b.extract_value(value, lane) for lane in range(width)] if width > 1 else [value]


def _load_if(dtype: DType) -> Any:
    def emit(b: Any, pointer: Operand, index: Operand, condition: Operand) -> Operand:
        value = b.load(element_at(b, pointer, b.select(condition, index, I32(0))))
        value = b.icmp_unsigned("!=", value, I8(0)) if dtype is BOOL else value
        return b.select(condition, value, ir.Constant(value.type, 0))

    return define(numba_type(dtype), [pointer_type(dtype), types.int32, types.boolean], emit)


def store(name: str) -> Any:
    dtype = DType(name)

    def emit(b: Any, pointer: Operand, index: Operand, value: Operand) -> Operand:
        b.store(b.zext(value, I8) if dtype is BOOL else value, element_at(b, pointer, index))

    return define(types.void, [pointer_type(dtype), types.int32, numba_type(dtype)], emit)


def load4(rest: str) -> Any:
    """``load4_if_float32(p, i, condition)``: four neighbours in one aligned access, or zeros;
    reads p[0 … 3] then.
    """
    assert rest == "if_float32"

    def emit(b: Any, pointer: Operand, index: Operand, condition: Operand) -> Operand:
        start = element_at(b, pointer, b.select(condition, index, I32(0)))
        zero = ir.Constant(ir.FloatType(), 0.0)
        return packed(b, [b.select(condition, value, zero) for value in load_vector(b, start, 0)])

    return define(tile_type(4), [pointer_type(FLOAT32), types.int32, types.boolean], emit)


def store4(rest: str) -> Any:
    """``store4_float32(p, i, v)``: four neighbours in one aligned access."""
    assert rest == "float32"

    def emit(b: Any, pointer: Operand, index: Operand, values: Operand) -> Operand:
        store_vector(b, element_at(b, pointer, index), unpacked(b, values, 4))

    return define(types.void, [pointer_type(FLOAT32), types.int32, tile_type(4)], emit)


def store_vector(b: Any, place: Operand, values: Sequence[Operand]) -> None:
    """Neighbours of four bytes each in one aligned access."""
    vector: Operand = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
    for lane, value in enumerate(values):
        vector = b.insert_element(vector, value, I32(lane))
    b.store(vector, b.bitcast(place, ir.PointerType(vector.type)), align=4 * len(values))


def load_vector(b: Any, pointer: Operand, offset: int, width: int = 4) -> list[Operand]:
    """``width`` neighbouring float32 in one access."""
    kind = ir.VectorType(ir.FloatType(), width)
    value = b.load(b.bitcast(b.gep(pointer, [I64(offset)]), ir.PointerType(kind)), align=4 * width)
    return [b.extract_element(value, I32(lane)) for lane in range(width)]


def shared_address(b: Any, pointer: Operand) -> Operand:
    """A generic pointer into shared memory as PTX's 32-bit address."""
    return b.ptrtoint(b.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, SHARED)), I32)


def shared(rest: str) -> Any:
    """``shared_DTYPE_COUNT()``: the block's memory (one array a name), from a multiple of 1024
    bytes on.
    """
    name, count = rest.split("_")
    dtype = DType(name)

    def emit(b: Any) -> Operand:
        array = ir.ArrayType(llvm_type(dtype), int(count))
        variable = ir.GlobalVariable(
            b.module, array, b.module.get_unique_name("shared"), addrspace=SHARED
        )
        variable.linkage, variable.align = "internal", 1024
        variable.initializer = ir.Constant(array, ir.Undefined)
        first = b.gep(variable, [I32(0), I32(0)])
        return b.addrspacecast(first, ir.PointerType(llvm_type(dtype)))

    return define(pointer_type(dtype), [], emit)


FAMILIES = {"load": load, "store": store, "load4": load4, "store4": store4, "shared": shared}
