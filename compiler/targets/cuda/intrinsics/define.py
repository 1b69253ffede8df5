"""What the instructions are made of: how values travel through Numba and LLVM, and how an intrinsic
is defined.

float16 and bfloat16 are their bits in a uint16; a bool is a byte in memory. Tuples of float32 are
register tiles.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic
from numba.cuda.typing import templates

from ....tensor_type import BFLOAT16, BOOL, FLOAT16, DType
from ...cpu.lowering.representation import I16, value_type

Operand: TypeAlias = Any
Emit: TypeAlias = Callable[..., Operand]


def numba_type(dtype: DType) -> Any:
    """How a value travels through Numba."""
    if dtype in (FLOAT16, BFLOAT16):
        return types.uint16
    return types.boolean if dtype is BOOL else getattr(types, dtype.value)


def memory_type(dtype: DType) -> Any:
    """How an element lies in memory."""
    return types.uint8 if dtype is BOOL else numba_type(dtype)


def pointer_type(dtype: DType) -> Any:
    return types.CPointer(memory_type(dtype))


def llvm_type(dtype: DType) -> ir.Type:
    """The LLVM type of a value; small floats are their bits."""
    return I16 if dtype is FLOAT16 else value_type(dtype)


def define(result: Any, arguments: Sequence[Any], emit: Emit) -> Any:
    """An intrinsic over typed positional arguments (Numba finds their number from the
    parameters).
    """
    signature = result(*arguments)

    def lower(_context: Any, builder: Any, _signature: Any, operands: Sequence[Operand]) -> Operand:
        return emit(builder, *operands)

    def typing(*_: Any) -> Any:
        return signature, lower

    names = ["context", *(f"x{position}" for position in range(len(arguments)))]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names
    ]
    typing.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return _remembered(intrinsic(typing))


def _remembered(made: Any) -> Any:
    """The intrinsic, typed once: for each of a kernel's hundreds of calls numba-cuda reads all its
    registries again, and then finds that it knows the intrinsic (a sixth of the time that a kernel
    takes).
    """
    template = templates.builtin_registry.functions[-1]
    assert template.key is made, "what was registered last"
    type_anew = template.generic

    def generic(self: Any, arguments: Any, named: Any) -> Any:
        known = self._impl_cache.get((self.context, arguments, tuple(named.items())))
        return type_anew(self, arguments, named) if known is None else known

    template.generic = generic
    return made


def called(b: Any, name: str, result: ir.Type, *operands: Operand) -> Operand:
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(result, [x.type for x in operands]), name)
    return b.call(function, operands)


def assembly(b: Any, result: ir.Type, code: str, constraints: str, *operands: Operand) -> Operand:
    """One PTX instruction without side effects."""
    kind = ir.FunctionType(result, [x.type for x in operands])
    return b.asm(kind, code, constraints, list(operands), False)


def tile_type(count: int) -> Any:
    """``count`` float32 accumulators in registers."""
    return types.UniTuple(types.float32, count)


def unpacked(b: Any, tile: Operand, count: int) -> list[Operand]:
    return [b.extract_value(tile, position) for position in range(count)]


def packed(b: Any, values: Sequence[Operand]) -> Operand:
    tile: Operand = ir.Constant(ir.ArrayType(values[0].type, len(values)), ir.Undefined)
    for position, value in enumerate(values):
        tile = b.insert_value(tile, value, position)
    return tile
