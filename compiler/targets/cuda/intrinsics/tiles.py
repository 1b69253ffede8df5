"""Register tiles of matrix products in float32, ``tile_fma_8_132_128_8_8(tile, left, right)``:
operands from shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I64
from .define import Operand, define, packed, pointer_type, tile_type, unpacked
from .memory import load_vector, store_vector
from .scalars import fma, rounded_once


def tile(rest: str) -> Any:
    operation, *numbers = rest.split("_")
    makers: dict[str, Callable[..., Any]] = {
        "zero": _tile_zero,
        "add": _tile_add,
        "fma": _tile_fma,
        "stage": _tile_stage,
    }
    return makers[operation](*map(int, numbers))


def _tile_zero(count: int) -> Any:
    return define(
        tile_type(count),
        [],
        lambda b: ir.Constant(ir.ArrayType(ir.FloatType(), count), [0.0] * count),
    )


def _tile_add(count: int) -> Any:
    def emit(b: Any, x: Operand, y: Operand) -> Operand:
        pairs = zip(unpacked(b, x, count), unpacked(b, y, count), strict=True)
        return packed(b, [rounded_once("add")(b, FLOAT32, left, right) for left, right in pairs])

    return define(tile_type(count), [tile_type(count)] * 2, emit)


def _tile_fma(depth: int, left_stride: int, right_stride: int, rows: int, columns: int) -> Any:
    """tile += the products of ``depth`` k-slices in shared memory: fragments of four lie a quarter
    tile apart.

    ``tile_fma(tile, left, right)``: left[k, row] and right[k, column] of this thread's first
    fragment.
    """
    pointer = pointer_type(FLOAT32)
    row_step, column_step = _fragment_step(left_stride, rows), _fragment_step(right_stride, columns)

    def emit(b: Any, tile: Operand, left: Operand, right: Operand) -> Operand:
        sums = unpacked(b, tile, rows * columns)
        for k in range(depth):
            a = [
                v
                for f in range(rows // 4)
                for v in load_vector(b, left, k * left_stride + f * row_step)
            ]
            w = [
                v
                for f in range(columns // 4)
                for v in load_vector(b, right, k * right_stride + f * column_step)
            ]
            for i in range(rows):
                for j in range(columns):
                    sums[i * columns + j] = fma(b, FLOAT32, a[i], w[j], sums[i * columns + j])
        return packed(b, sums)

    return define(tile_type(rows * columns), [tile_type(rows * columns), pointer, pointer], emit)


def _fragment_step(stride: int, count: int) -> int:
    """How far apart a thread's fragments of four lie in a k-slice, whose stride has 4 elements
    of padding.
    """
    return (stride - 4) * 4 // count


def _tile_stage(
    rows: int, columns: int, first: int, count: int, row_stride: int, column_step: int
) -> Any:
    """``tile_stage(tile, target)``: rows first … first + count of the tile to shared memory,
    fragments as in tile_fma.
    """

    def emit(b: Any, tile: Operand, target: Operand) -> Operand:
        values = unpacked(b, tile, rows * columns)
        for i in range(count):
            for f in range(columns // 4):
                start = (first + i) * columns + 4 * f
                store_vector(
                    b,
                    b.gep(target, [I64(i * row_stride + f * column_step)]),
                    values[start : start + 4],
                )

    return define(types.void, [tile_type(rows * columns), pointer_type(FLOAT32)], emit)


FAMILIES = {"tile": tile}
