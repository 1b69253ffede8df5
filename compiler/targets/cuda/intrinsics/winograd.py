"""The fused Winograd kernel's parts, F(2x2, 3x3), a block's slice being 4 channels of 32 tiles and
some filters.

Shared memory holds U [channel, entry, filter] and V [channel, entry, tile]. A thread sums for one
entry a quarter of the filters with a quarter of the tiles, in fragments of four that lie 16 apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from .define import Operand, define, packed, pointer_type, tile_type, unpacked
from .memory import element_at, global_address, load_vector, read_where, store_vector
from .scalars import fma

DEPTH, TILES, ENTRIES, SIDE = 4, 32, 16, 4
POINTER = pointer_type(FLOAT32)


def winograd(rest: str) -> Any:
    operation, *numbers = rest.split("_")
    return _MAKERS[operation](*map(int, numbers))


def _mask(height: int, width: int) -> Any:
    """``winograd_mask(top, left, is_tile)``: bit 4 i + j for each element of a tile's patch that
    is an input.
    """

    def emit(b: Any, top: Operand, left: Operand, is_tile: Operand) -> Operand:
        inside = [
            [b.icmp_unsigned("<", b.add(start, I32(step)), I32(extent)) for step in range(SIDE)]
            for start, extent in ((top, height), (left, width))
        ]
        mask: Operand = I32(0)
        for i, row in enumerate(inside[0]):
            for j, column in enumerate(inside[1]):
                bit = b.select(b.and_(row, column), I32(1 << (SIDE * i + j)), I32(0))
                mask = b.or_(mask, bit)
        return b.select(is_tile, mask, I32(0))

    return define(types.int32, [types.int32, types.int32, types.boolean], emit)


def _patch(width: int, count: int) -> Any:
    """``winograd_patch(x, offset, mask)``: 4 x 4 numbers by rows, ``width`` apart; zeros where the
    mask has none.

    The tuple has ``count`` places; those behind the 16 are undefined.
    """

    def emit(b: Any, x: Operand, offset: Operand, mask: Operand) -> Operand:
        place = global_address(b, x, offset)
        values = []
        for i in range(SIDE):
            for j in range(SIDE):
                bit = b.and_(mask, I32(1 << (SIDE * i + j)))
                values += read_where(b, bit, place, 4 * (i * width + j), 1)
        return packed(
            b, values + [ir.Constant(ir.FloatType(), ir.Undefined)] * (count - len(values))
        )

    return define(tile_type(count), [POINTER, types.int32, types.int32], emit)


def _filters(width: int, count: int, step: int) -> Any:
    """``winograd_filters(u, offset, is_inside)``: ``count`` accesses of ``width`` numbers,
    ``step`` apart, or zeros.
    """

    def emit(b: Any, u: Operand, offset: Operand, is_inside: Operand) -> Operand:
        place, wanted = global_address(b, u, offset), b.zext(is_inside, I32)
        parts = [read_where(b, wanted, place, 4 * part * step, width) for part in range(count)]
        return packed(b, [value for part in parts for value in part])

    return define(tile_type(width * count), [POINTER, types.int32, types.boolean], emit)


def _keep(target_step: int) -> Any:
    """``winograd_keep(target, tile)``: the 16 entries of a transformed tile, so far apart."""

    def emit(b: Any, target: Operand, tile: Operand) -> Operand:
        for entry, value in enumerate(unpacked(b, tile, ENTRIES)):
            b.store(value, b.gep(target, [I64(entry * target_step)]))

    return define(types.void, [POINTER, tile_type(ENTRIES)], emit)


def _put(width: int, count: int, step: int) -> Any:
    """``winograd_put(target, values)``: what ``winograd_filters`` read, ``step`` apart."""

    def emit(b: Any, target: Operand, values: Operand) -> Operand:
        read = unpacked(b, values, width * count)
        for part in range(count):
            _store(b, b.gep(target, [I64(part * step)]), read[part * width : (part + 1) * width])

    return define(types.void, [POINTER, tile_type(width * count)], emit)


def _store(b: Any, place: Operand, values: Sequence[Operand]) -> None:
    if len(values) == 1:
        b.store(values[0], place)
    else:
        store_vector(b, place, values)


def _fma(filters: int) -> Any:
    """``winograd_fma(tile, u, v)``: tile += the products of a slice, from this thread's first
    fragments on.
    """
    rows, columns = filters // SIDE, TILES // SIDE

    def emit(b: Any, tile: Operand, u: Operand, v: Operand) -> Operand:
        sums = unpacked(b, tile, rows * columns)
        for k in range(DEPTH):
            left = _fragments(b, u, k * ENTRIES * filters, rows)
            right = _fragments(b, v, k * ENTRIES * TILES, columns)
            for i in range(rows):
                for j in range(columns):
                    at = i * columns + j
                    sums[at] = fma(b, FLOAT32, left[i], right[j], sums[at])
        return packed(b, sums)

    return define(tile_type(rows * columns), [tile_type(rows * columns), POINTER, POINTER], emit)


def _fragments(b: Any, pointer: Operand, start: int, count: int) -> list[Operand]:
    steps = range(start, start + SIDE * count, SIDE * SIDE)
    return [value for step in steps for value in load_vector(b, pointer, step)]


def _stage(filters: int, part: int) -> Any:
    """``winograd_stage(tile, target, near, far)``: the part-th fragments of filters to rows of 32
    tiles.

    ``near`` and ``far``: where in a row the first and the second fragment of tiles lie.
    """
    columns = TILES // SIDE

    def emit(b: Any, tile: Operand, target: Operand, *places: Operand) -> Operand:
        values = unpacked(b, tile, filters // SIDE * columns)
        for i in range(SIDE):
            for half, place in enumerate(places):
                start = (SIDE * part + i) * columns + SIDE * half
                row = b.gep(target, [I64(i * TILES)])
                store_vector(b, element_at(b, row, place), values[start : start + SIDE])

    tile = tile_type(filters // SIDE * columns)
    return define(types.void, [tile, POINTER, types.int32, types.int32], emit)


_MAKERS: dict[str, Callable[..., Any]] = {
    "mask": _mask, "patch": _patch, "filters": _filters, "keep": _keep, "put": _put, "fma": _fma, "stage": _stage,
}  # fmt: skip
FAMILIES = {"winograd": winograd}
