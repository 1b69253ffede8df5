"""Products of four warps on Hopper's tensor cores, ``wgmma_tf32_128_2(tile, left, right)``: both
operands in shared memory.

Slices lie [row, k], 64 bytes a row, groups of 16 bytes swizzled (PTX ISA 8.0, section 9.7.14:
64-byte swizzle, K-major). A product runs beside other code until it is waited for, and reads what
was fenced for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from .define import Operand, define, packed, pointer_type, tile_type, unpacked
from .memory import shared_address

# the code of 64-byte swizzle, and how far groups of 8 rows lie apart
_SWIZZLE, _BYTES_OF_8_ROWS = 2, 512
_DESCRIPTION = _SWIZZLE << 62 | (_BYTES_OF_8_ROWS >> 4) << 32 | 1 << 16
_SHAPES = {"tf32": ("k8.f32.tf32.tf32", "1, 1"), "bf16": ("k16.f32.bf16.bf16", "1, 1, 0, 0")}


def wgmma(rest: str) -> Any:
    """``wgmma_ENGINE_COLUMNS_STEPS(tile, left, right)``: begins tile += 64 rows * columns', 32
    bytes of k a step.
    """
    engine, *numbers = rest.split("_")
    columns, steps = map(int, numbers)
    held = columns // 2
    shape, signs = _SHAPES[engine]
    registers = ", ".join(f"${place}" for place in range(held))
    name = f"wgmma.mma_async.sync.aligned.m64n{columns}{shape}"
    sides = [(2 * held + 2 * step, 2 * held + 2 * step + 1) for step in range(steps)]
    products = "".join(
        f"{name} {{{registers}}}, ${left}, ${right}, %adds, {signs};\n" for left, right in sides
    )
    code = (f"{{\n.reg .pred %adds;\nsetp.ne.b32 %adds, 1, 0;\nwgmma.fence.sync.aligned;\n{products}"
            "wgmma.commit_group.sync.aligned;\n}")  # fmt: skip
    pointer = pointer_type(FLOAT32)

    def emit(b: Any, tile: Operand, left: Operand, right: Operand) -> Operand:
        sides = [_descriptor(b, side) for side in (left, right)]
        descriptors = [b.add(side, I64(2 * step)) for step in range(steps) for side in sides]
        return _in_place(b, code, tile, held, descriptors)

    return define(tile_type(held), [tile_type(held), pointer, pointer], emit)


def finished(rest: str) -> Any:
    """``finished_COUNT(tile)``: the tile when its products are done."""
    held = int(rest)
    return define(
        tile_type(held),
        [tile_type(held)],
        lambda b, tile: _in_place(b, "wgmma.wait_group.sync.aligned 0;", tile, held, []),
    )


def _in_place(b: Any, code: str, tile: Operand, held: int, operands: list[Operand]) -> Operand:
    """Instructions that change a tile in its registers."""
    sums = unpacked(b, tile, held)
    kind = ir.FunctionType(
        ir.LiteralStructType([ir.FloatType()] * held),
        [*(x.type for x in sums), *(x.type for x in operands)],
    )
    constraints = [*["=f"] * held, *map(str, range(held)), *["l"] * len(operands), "~{memory}"]
    found = b.asm(kind, code, ",".join(constraints), [*sums, *operands], True)
    return packed(b, [b.extract_value(found, place) for place in range(held)])


def _descriptor(b: Any, pointer: Operand) -> Operand:
    """Where a matrix of rows begins, and how it lies."""
    start = b.lshr(b.and_(shared_address(b, pointer), I32(0x3FFFF)), I32(4))
    return b.or_(
        b.zext(start, I64), I64(_DESCRIPTION - (1 << 64) if _DESCRIPTION >> 63 else _DESCRIPTION)
    )


def _fence() -> Any:
    """``fence_for_products()``: what this thread wrote to shared memory is there for products
    that begin behind a barrier.
    """
    kind = ir.FunctionType(ir.VoidType(), [])
    return define(
        types.void,
        [],
        lambda b: b.asm(kind, "fence.proxy.async.shared::cta;", "~{memory}", [], True) and None,
    )


FAMILIES = {"wgmma": wgmma, "finished": finished}
PLAIN: dict[str, Callable[[], Any]] = {"fence_for_products": _fence}
