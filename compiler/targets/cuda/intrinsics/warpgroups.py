"""Products of four warps on Hopper's tensor cores, ``wgmma_tf32_128_32(tile, left, right)``: both
operands in shared memory.

Slices lie [row, k], 16 or 32 words a row, groups of four words swizzled (PTX ISA 8.0, section
9.7.14: 64- and 128-byte swizzle, K-major). A product runs beside other code until it is waited for,
and reads what was fenced for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from .define import Operand, define, packed, pointer_type, tile_type, unpacked
from .memory import element_at, shared_address, store_vector
from .scalars import subtract
from .tensor_cores import TF32_HALF, TF32_MASK

_SWIZZLES = {16: 2, 32: 1}  # the code of a swizzle, by words of a row
_SHAPES = {"tf32": ("k8.f32.tf32.tf32", "1, 1"), "bf16": ("k16.f32.bf16.bf16", "1, 1, 0, 0")}
_STEP = 2  # 32 bytes of k in a descriptor, which counts by 16


def wgmma(rest: str) -> Any:
    """``wgmma_ENGINE_COLUMNS_STRIDE(tile, left, right)``: begins tile += 64 rows * columns', over
    all ``STRIDE`` words of the rows.
    """
    engine, *numbers = rest.split("_")
    columns, stride = map(int, numbers)
    held, pointer = columns // 2, pointer_type(FLOAT32)

    def emit(b: Any, tile: Operand, left: Operand, right: Operand) -> Operand:
        sides = [_descriptor(b, side, stride) for side in (left, right)]
        pairs = [[b.add(side, I64(_STEP * step)) for side in sides] for step in range(stride // 8)]
        return _begun(b, engine, columns, unpacked(b, tile, held), pairs, adds=True)

    return define(tile_type(held), [tile_type(held), pointer, pointer], emit)


def wgmmas(rest: str) -> Any:
    """``wgmmas_COLUMNS_STRIDE_LEFT_RIGHT(left, right)``: begins a tile of 64 rows * columns' of
    numbers in two parts, the small products first.

    The low parts lie LEFT and RIGHT words behind the high ones; the tile begins with zeros.
    """
    columns, stride, *behind = map(int, rest.split("_"))
    held, pointer = columns // 2, pointer_type(FLOAT32)

    def emit(b: Any, left: Operand, right: Operand) -> Operand:
        (a, a_low), (w, w_low) = (
            (high, b.add(high, I64(words // 4)))
            for high, words in zip(
                (_descriptor(b, side, stride) for side in (left, right)), behind, strict=True
            )
        )
        pairs = [
            [b.add(side, I64(_STEP * step)) for side in sides]
            for sides in ((a_low, w), (a, w_low), (a, w))
            for step in range(stride // 8)
        ]
        nothing = [ir.Constant(ir.FloatType(), ir.Undefined)] * held
        return _begun(b, "tf32", columns, nothing, pairs, adds=False)

    return define(tile_type(held), [pointer, pointer], emit)


def _begun(
    b: Any,
    engine: str,
    columns: int,
    sums: Sequence[Operand],
    pairs: Sequence[Sequence[Operand]],
    adds: bool,
) -> Operand:
    """One group of products, each over 32 bytes of k; unless it ``adds``, the first one overwrites
    the sums."""
    held = len(sums)
    shape, signs = _SHAPES[engine]
    registers = ", ".join(f"${place}" for place in range(held))
    name = f"wgmma.mma_async.sync.aligned.m64n{columns}{shape}"
    products = "".join(
        f"{name} {{{registers}}}, ${2 * held + 2 * number}, ${2 * held + 2 * number + 1}, "
        f"{'%adds' if adds or number else '%begins'}, {signs};\n"
        for number in range(len(pairs))
    )
    code = (
        "{\n.reg .pred %adds;\n.reg .pred %begins;\nsetp.ne.b32 %adds, 1, 0;\n"
        "setp.ne.b32 %begins, 0, 0;\nwgmma.fence.sync.aligned;\n"
        f"{products}wgmma.commit_group.sync.aligned;\n}}"
    )
    return _in_place(b, code, sums, [side for pair in pairs for side in pair])


def finished(rest: str) -> Any:
    """``finished_COUNT(tile)``: the tile when its products are done."""
    return _waited(int(rest), 0)


def ahead(rest: str) -> Any:
    """``ahead_COUNT(tile)``: the tile when all its products are done but the last group, to which
    more may be added.
    """
    return _waited(int(rest), 1)


def _waited(held: int, pending: int) -> Any:
    code = f"wgmma.wait_group.sync.aligned {pending};"
    return define(
        tile_type(held),
        [tile_type(held)],
        lambda b, tile: _in_place(b, code, unpacked(b, tile, held), []),
    )


def _in_place(b: Any, code: str, sums: Sequence[Operand], operands: Sequence[Operand]) -> Operand:
    """Instructions that change a tile in its registers."""
    held = len(sums)
    kind = ir.FunctionType(
        ir.LiteralStructType([ir.FloatType()] * held),
        [*(x.type for x in sums), *(x.type for x in operands)],
    )
    constraints = [*["=f"] * held, *map(str, range(held)), *["l"] * len(operands), "~{memory}"]
    found = b.asm(kind, code, ",".join(constraints), [*sums, *operands], True)
    return packed(b, [b.extract_value(found, place) for place in range(held)])


def _descriptor(b: Any, pointer: Operand, stride: int) -> Operand:
    """Where a matrix of rows begins, and how it lies: its swizzle, and how far groups of 8 rows lie
    apart.
    """
    start = b.lshr(b.and_(shared_address(b, pointer), I32(0x3FFFF)), I32(4))
    description = _SWIZZLES[stride] << 62 | (32 * stride >> 4) << 32 | 1 << 16
    return b.or_(
        b.zext(start, I64), I64(description - (1 << 64) if description >> 63 else description)
    )


def split(rest: str) -> Any:
    """``split_BEHIND(p, i, x)``: what a tensor core reads of a number, rounded, at p[i], and the
    exact rest BEHIND words behind it.
    """

    def emit(b: Any, pointer: Operand, index: Operand, value: Operand) -> None:
        place = element_at(b, pointer, index)
        high, low = _parts(b, value)
        b.store(high, place)
        b.store(low, b.gep(place, [I64(int(rest))]))

    return define(types.void, [pointer_type(FLOAT32), types.int32, types.float32], emit)


def split4(rest: str) -> Any:
    """``split4_BEHIND(p, i, v)``: four neighbours in two parts, in two aligned accesses."""

    def emit(b: Any, pointer: Operand, index: Operand, values: Operand) -> None:
        place = element_at(b, pointer, index)
        high, low = zip(*(_parts(b, value) for value in unpacked(b, values, 4)), strict=True)
        store_vector(b, place, high)
        store_vector(b, b.gep(place, [I64(int(rest))]), low)

    return define(types.void, [pointer_type(FLOAT32), types.int32, tile_type(4)], emit)


def _parts(b: Any, value: Operand) -> tuple[Operand, Operand]:
    rounded = b.and_(b.add(b.bitcast(value, I32), I32(TF32_HALF)), I32(TF32_MASK))
    high = b.bitcast(rounded, ir.FloatType())
    return high, subtract(b, FLOAT32, value, high)


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


FAMILIES = {
    "wgmma": wgmma,
    "wgmmas": wgmmas,
    "finished": finished,
    "ahead": ahead,
    "split": split,
    "split4": split4,
}
PLAIN: dict[str, Callable[[], Any]] = {"fence_for_products": _fence}
