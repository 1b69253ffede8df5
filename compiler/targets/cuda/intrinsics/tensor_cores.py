"""Products of a warp on tensor cores, ``mma_tf32_20_2_4_4(tile, left, right)``, and operands as
they read them.

Slices lie [row, k] in words of four bytes: a float32, or two bfloat16. mma.sync.m16n8 takes 8 words
of k of 16 rows and 8 columns; ldmatrix brings four matrices of 8 rows of 4 words, each lane naming
a row (PTX ISA 8.0, sections 9.7.13.4 and 5).
"""

from __future__ import annotations

from typing import Any, TypeAlias

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from .define import Operand, assembly, define, packed, pointer_type, tile_type, unpacked
from .memory import SHARED, element_at, shared_address, store_vector
from .scalars import subtract

_MMA = {"tf32": "m16n8k8.row.col.f32.tf32.tf32.f32", "bf16": "m16n8k16.row.col.f32.bf16.bf16.f32"}
Fragments: TypeAlias = list[list[Operand]]
# half of the last bit that tensor cores read, and all that they read
TF32_HALF, TF32_MASK = 0x1000, 0xFFFFE000


def mma(rest: str) -> Any:
    head, *numbers = rest.split("_")
    if head == "stage":
        return _mma_stage(*map(int, numbers))
    return _mma_tile(head, *map(int, numbers))


def _mma_tile(engine: str, stride: int, steps: int, down: int, across: int) -> Any:
    """tile += left * right' over ``steps`` times 8 words of k, for a warp's down x across fragments
    of m16n8.

    ``mma(tile, left, right)``: this lane's rows of the first matrices. 3xtf32 adds the small
    products first.
    """
    pointer = pointer_type(FLOAT32)

    def emit(b: Any, tile: Operand, left: Operand, right: Operand) -> Operand:
        sums = unpacked(b, tile, down * across * 4)
        left, right = (shared_address(b, place) for place in (left, right))
        for step in range(steps):
            a = [ldmatrix(b, left, 4 * (i * 16 * stride + step * 8)) for i in range(down)]
            pairs = [
                ldmatrix(b, right, 4 * (j * 16 * stride + step * 8)) for j in range(across // 2)
            ]
            w = [pair[half : half + 2] for pair in pairs for half in (0, 2)]
            multiply(b, engine, sums, a, w)
        return packed(b, sums)

    return define(
        tile_type(down * across * 4), [tile_type(down * across * 4), pointer, pointer], emit
    )


def mmac(rest: str) -> Any:
    """``mmac_ENGINE_LEFT_RIGHT_DOWN_ACROSS(tile, left, i, right, j)``: as mma, over copied slices
    of 16 words of k.

    A side is r: rows of 16 words, their groups of four swizzled; or c128: 16 columns of 128 words,
    swizzled (copied_slices.py has both). i and j are where this lane's first words lie. Operands
    are rounded here, since copies cannot.
    """
    engine, left_kind, right_kind, *numbers = rest.split("_")
    down, across = map(int, numbers)
    pointer = pointer_type(FLOAT32)

    def emit(
        b: Any, tile: Operand, left: Operand, i: Operand, right: Operand, j: Operand
    ) -> Operand:
        sums = unpacked(b, tile, down * across * 4)
        for step in (0, 1):
            groups = [
                _groups(b, left_kind, left, i, step, 2 * down, True),
                _groups(b, right_kind, right, j, step, across, False),
            ]
            if engine == "tf32":
                groups = [
                    [[rounded_to_tf32(b, word) for word in group] for group in side]
                    for side in groups
                ]
            rows = [
                [*above, *below]
                for above, below in zip(groups[0][::2], groups[0][1::2], strict=True)
            ]
            # of a group's two words of k, the first of all groups first
            a = [[part[place] for place in (0, 2, 1, 3)] for part in rows]
            multiply(b, engine, sums, a, groups[1])
        return packed(b, sums)

    kind = tile_type(down * across * 4)
    return define(kind, [kind, pointer, types.int32, pointer, types.int32], emit)


def _groups(
    b: Any, kind: str, base: Operand, first: Operand, step: int, number: int, is_left: bool
) -> Fragments:
    """The two words of k, four apart, of each group of 8 rows or columns."""
    address = shared_address(b, base)
    # ldmatrix brings two groups; a swizzled row's next 8 words differ from the first in one bit
    if kind == "r":
        place = b.add(address, b.shl(b.xor(first, I32(8 * step)), I32(2)))
        found = [ldmatrix(b, place, 4 * 16 * 16 * pair) for pair in range(number // 2)]
        order = ((0, 2), (1, 3)) if is_left else ((0, 1), (2, 3))
        return [[words[place] for place in pair] for words in found for pair in order]
    size = int(kind.removeprefix("c"))
    starts = [
        b.add(address, b.shl(b.xor(first, I32(8 * group)), I32(2)))
        for group in range(min(number, 4))
    ]
    pointers = [b.inttoptr(start, ir.PointerType(I32, SHARED)) for start in starts]
    return [
        [
            b.load(
                b.gep(pointers[group % 4], [I32(32 * (group // 4) + (8 * step + 4 * half) * size)])
            )
            for half in (0, 1)
        ]
        for group in range(number)
    ]


def rounded_to_tf32(b: Any, word: Operand) -> Operand:
    """To TF32, halves away from zero; a NaN stays one."""
    return assembly(b, I32, "cvt.rna.tf32.f32 $0, $1;", "=r,f", b.bitcast(word, ir.FloatType()))


def multiply(b: Any, engine: str, sums: list[Operand], a: Fragments, w: Fragments) -> None:
    """Adds a * w to the sums of down x across fragments."""
    shape = _MMA[engine.removeprefix("3x")]
    for x, y in _passes(b, engine, a, w):
        for i, rows in enumerate(x):
            for j, columns in enumerate(y):
                at = 4 * (i * len(y) + j)
                sums[at : at + 4] = _multiplied(b, shape, sums[at : at + 4], rows, columns)


def _passes(b: Any, engine: str, a: Fragments, w: Fragments) -> list[tuple[Fragments, Fragments]]:
    """What is multiplied: the operands themselves, or low x high, high x low and high x high
    parts.
    """
    if engine != "3xtf32":
        return [(a, w)]
    (a_high, a_low), (w_high, w_low) = (_split(b, side) for side in (a, w))
    return [(a_low, w_high), (a_high, w_low), (a_high, w_high)]


def _split(b: Any, side: Fragments) -> tuple[Fragments, Fragments]:
    """Each number as what a tensor core reads of it, rounded, and the exact rest."""
    high = [[b.and_(b.add(x, I32(TF32_HALF)), I32(TF32_MASK)) for x in part] for part in side]
    low = [
        [
            b.bitcast(
                subtract(b, FLOAT32, b.bitcast(x, ir.FloatType()), b.bitcast(h, ir.FloatType())),
                I32,
            )
            for x, h in zip(*parts, strict=True)
        ]
        for parts in zip(side, high, strict=True)
    ]
    return high, low


def ldmatrix(b: Any, address: Operand, offset: int, is_turned: bool = False) -> list[Operand]:
    """Four matrices of 8 x 4 words: each lane gets one word of each; of turned ones, whose elements
    are halves of words, two that lie one below the other."""
    kind = ir.FunctionType(ir.LiteralStructType([I32] * 4), [I32])
    turned = ".trans" if is_turned else ""
    code = f"ldmatrix.sync.aligned.m8n8.x4{turned}.shared.b16 {{$0, $1, $2, $3}}, [$4];"
    found = b.asm(kind, code, "=r,=r,=r,=r,r,~{memory}", [b.add(address, I32(offset))], True)
    return [b.extract_value(found, place) for place in range(4)]


def _multiplied(
    b: Any, shape: str, sums: list[Operand], a: list[Operand], w: list[Operand]
) -> list[Operand]:
    """One mma.sync; all 32 lanes take part."""
    kind = ir.FunctionType(
        ir.LiteralStructType([ir.FloatType()] * 4), [I32] * 6 + [ir.FloatType()] * 4
    )
    code = f"mma.sync.aligned.{shape} {{$0, $1, $2, $3}}, {{$4, $5, $6, $7}}, {{$8, $9}}, {{$10, $11, $12, $13}};"
    found = b.asm(kind, code, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", [*a, *w, *sums], True)
    return [b.extract_value(found, place) for place in range(4)]


def _mma_stage(down: int, across: int, part: int, columns: int) -> Any:
    """``mma_stage(tile, target)``: the part-th 16 rows of a warp's tile to memory of ``columns``
    words a row.
    """

    def emit(b: Any, tile: Operand, target: Operand) -> Operand:
        values = unpacked(b, tile, down * across * 4)
        for j in range(across):
            at = 4 * (part * across + j)
            for half in (0, 1):
                store_vector(
                    b,
                    b.gep(target, [I64(half * 8 * columns + 8 * j)]),
                    values[at + 2 * half : at + 2 * half + 2],
                )

    return define(types.void, [tile_type(down * across * 4), pointer_type(FLOAT32)], emit)


def keep(name: str) -> Any:
    """``keep_ENGINE(p, i, x)``: a float32 as the engine reads it, at p[i]."""

    def emit(b: Any, pointer: Operand, index: Operand, value: Operand) -> Operand:
        b.store(_kept(b, name, value), element_at(b, pointer, index))

    return define(types.void, [pointer_type(FLOAT32), types.int32, types.float32], emit)


def keep4(name: str) -> Any:
    """``keep4_ENGINE(p, i, v)``: four neighbours in one aligned access, from p[i] on; as
    bfloat16 in two words.
    """

    def emit(b: Any, pointer: Operand, index: Operand, values: Operand) -> Operand:
        four, place = unpacked(b, values, 4), element_at(b, pointer, index)
        if name == "bfloat16":
            store_vector(
                b,
                b.bitcast(place, ir.PointerType(I32)),
                [bfloat16_pair(b, four[0], four[1]), bfloat16_pair(b, four[2], four[3])],
            )
        else:
            store_vector(b, place, [_kept(b, name, value) for value in four])

    return define(types.void, [pointer_type(FLOAT32), types.int32, tile_type(4)], emit)


def pair(rest: str) -> Any:
    """``pair_WIDTH_STRIDE(p, i, v, w)``: (v, w) as two bfloat16 in the word p[i]; of vectors of
    four, STRIDE words apart.
    """
    width, stride = map(int, rest.split("_"))
    kind = types.float32 if width == 1 else tile_type(width)

    def emit(b: Any, pointer: Operand, index: Operand, low: Operand, high: Operand) -> Operand:
        place = b.bitcast(element_at(b, pointer, index), ir.PointerType(I32))
        lows, highs = ([x] if width == 1 else unpacked(b, x, width) for x in (low, high))
        for lane, (first, second) in enumerate(zip(lows, highs, strict=True)):
            b.store(bfloat16_pair(b, first, second), b.gep(place, [I64(lane * stride)]))

    return define(types.void, [pointer_type(FLOAT32), types.int32, kind, kind], emit)


def bfloat16_pair(b: Any, low: Operand, high: Operand) -> Operand:
    """Two bfloat16, rounded to nearest, in one word; a NaN stays one."""
    return assembly(b, I32, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", high, low)


def _kept(b: Any, name: str, value: Operand) -> Operand:
    if name != "tf32":
        return value
    rounded = b.bitcast(b.add(b.bitcast(value, I32), I32(TF32_HALF)), ir.FloatType())
    return b.select(b.fcmp_unordered("uno", value, value), value, rounded)


FAMILIES = {"mma": mma, "mmac": mmac, "keep": keep, "keep4": keep4, "pair": pair}
