"""The fused attention's parts on tensor cores: a warp holds the scores of 16 queries and some keys,
and the queries' outputs, as mma.sync lays out its sums.

Lane 4 g + t has of every fragment of 8 columns the rows g and g + 8, of each the columns 2 t and
2 t + 1 (PTX ISA 8.0, section 9.7.13.4). A number of each of its two rows is the same in the four
lanes of a row. Names carry how many fragments a lane holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from ..attention_warps import LANE_ROWS
from .attention import F32, LOWEST, POINTER, ZERO, exponential, larger
from .define import Operand, called, define, packed, tile_type, unpacked
from .memory import SHARED, load_vector, shared_address, store_vector
from .scalars import fma, rounded_once
from .tensor_cores import Fragments, bfloat16_pair, ldmatrix, multiply, rounded_to_tf32

AT_ONCE = 4  # fragments of columns whose sums grow together


def fragments(rest: str) -> Any:
    operation, *numbers = rest.split("_")
    if operation == "values":
        return _values(numbers[0], *map(int, numbers[1:]))
    return _MAKERS[operation](*map(int, numbers))


def row_of(at: int) -> int:
    """Which of a lane's rows one of its numbers is in."""
    return at // 2 % LANE_ROWS


# -- scores ----------------------------------------------------------------------------------------


def _bounded(count: int) -> Any:
    """``fragments_bounded(tile, left)``: -inf where there is no key; ``left``: keys from this
    lane's first one on."""

    def emit(b: Any, tile: Operand, left: Operand) -> Operand:
        scores = unpacked(b, tile, 4 * count)
        return packed(
            b,
            [
                b.select(b.icmp_signed("<", I32(8 * (at // 4) + at % 2), left), score, LOWEST)
                for at, score in enumerate(scores)
            ],
        )

    kind = tile_type(4 * count)
    return define(kind, [kind, types.int32], emit)


def _causal(count: int) -> Any:
    """``fragments_causal(tile, reach)``: -inf where the key is behind the query; ``reach``: this
    lane's first query's number less its first key's."""

    def emit(b: Any, tile: Operand, reach: Operand) -> Operand:
        scores = unpacked(b, tile, 4 * count)
        for at, score in enumerate(scores):
            least = I32(8 * (at // 4) + at % 2 - 8 * row_of(at))
            scores[at] = b.select(b.icmp_signed(">=", reach, least), score, LOWEST)
        return packed(b, scores)

    kind = tile_type(4 * count)
    return define(kind, [kind, types.int32], emit)


# -- weights ---------------------------------------------------------------------------------------


def _raised(count: int) -> Any:
    """``fragments_raised(largest, tile)``: each row's largest score so far; a NaN is none."""

    def emit(b: Any, largest: Operand, tile: Operand) -> Operand:
        scores, found = unpacked(b, tile, 4 * count), unpacked(b, largest, LANE_ROWS)
        for row in range(LANE_ROWS):
            first, *others = (score for at, score in enumerate(scores) if row_of(at) == row)
            for other in others:
                first = larger(b, first, other)
            found[row] = larger(b, found[row], _shared_by_row(b, first, larger))
        return packed(b, found)

    return define(tile_type(LANE_ROWS), [tile_type(LANE_ROWS), tile_type(4 * count)], emit)


def _weights(count: int) -> Any:
    """``fragments_weights(tile, bases)``: exp(score - base)."""

    def emit(b: Any, tile: Operand, bases: Operand) -> Operand:
        base, scores = unpacked(b, bases, LANE_ROWS), unpacked(b, tile, 4 * count)
        return packed(b, [exponential(b, x, base[row_of(at)]) for at, x in enumerate(scores)])

    kind = tile_type(4 * count)
    return define(kind, [kind, tile_type(LANE_ROWS)], emit)


def _totals(count: int) -> Any:
    """``fragments_totals(totals, factors, tile)``: this lane's sums of each row's weights."""

    def emit(b: Any, totals: Operand, factors: Operand, tile: Operand) -> Operand:
        weights, found = unpacked(b, tile, 4 * count), unpacked(b, totals, LANE_ROWS)
        by = unpacked(b, factors, LANE_ROWS)
        for row in range(LANE_ROWS):
            new, *others = (x for at, x in enumerate(weights) if row_of(at) == row)
            for other in others:
                new = _add(b, new, other)
            found[row] = fma(b, FLOAT32, found[row], by[row], new)
        return packed(b, found)

    kind = tile_type(LANE_ROWS)
    return define(kind, [kind, kind, tile_type(4 * count)], emit)


def _whole() -> Any:
    """``fragments_whole(totals)``: each row's sum, the same in all of its lanes."""

    def emit(b: Any, totals: Operand) -> Operand:
        return packed(b, [_shared_by_row(b, x, _add) for x in unpacked(b, totals, LANE_ROWS)])

    return define(tile_type(LANE_ROWS), [tile_type(LANE_ROWS)], emit)


# -- outputs ---------------------------------------------------------------------------------------


def _values(engine: str, stride: int, count: int, columns: int) -> Any:
    """``fragments_values_ENGINE(made, factors, tile, v)``: made * factor + weights v, row by row;
    v: this lane's place in the values of the warp's first key, ``stride`` words a key.

    The weights stay where the product that made the scores left them. For bfloat16 two fragments
    are a left operand as they are. For TF32 one is, if terms are taken in another order: place t
    of a step's eight stands for key 2 t, place t + 4 for key 2 t + 1.
    """

    def emit(b: Any, made: Operand, factors: Operand, tile: Operand, v: Operand) -> Operand:
        found, by = unpacked(b, made, 4 * columns), unpacked(b, factors, LANE_ROWS)
        weights = unpacked(b, tile, 4 * count)
        for at, new in times_values(b, engine, weights, v, stride, columns):
            found[at] = fma(b, FLOAT32, found[at], by[row_of(at)], new)
        return packed(b, found)

    kind = tile_type(4 * columns)
    return define(kind, [kind, tile_type(LANE_ROWS), tile_type(4 * count), POINTER], emit)


def times_values(
    b: Any, engine: str, weights: list[Operand], v: Operand, stride: int, columns: int
) -> Iterator[tuple[int, Operand]]:
    """The weights' product with the values, some fragments of columns after others: each number
    with its place."""
    left, address = _weights_as_operands(b, engine, weights), shared_address(b, v)
    for first in range(0, columns, AT_ONCE):
        number = min(AT_ONCE, columns - first)
        sums = [ZERO] * (4 * number)
        for step, part in enumerate(left):
            right = (_bfloat16_values if engine == "bf16" else _tf32_values)(
                b, address, stride, step, first, number
            )
            multiply(b, engine, sums, [part], right)
        yield from enumerate(sums, 4 * first)


def _weights_as_operands(b: Any, engine: str, weights: list[Operand]) -> Fragments:
    """The left operands of the product with the values, one for each of its steps."""
    if engine == "bf16":
        pairs = [bfloat16_pair(b, *weights[at : at + 2]) for at in range(0, len(weights), 2)]
        return [pairs[at : at + 4] for at in range(0, len(pairs), 4)]
    words = [
        rounded_to_tf32(b, b.bitcast(x, I32)) if engine == "tf32" else b.bitcast(x, I32)
        for x in weights
    ]
    return [[words[at + place] for place in (0, 2, 1, 3)] for at in range(0, len(words), 4)]


def _bfloat16_values(
    b: Any, address: Operand, stride: int, step: int, first: int, number: int
) -> Fragments:
    """Of 16 keys: pairs of neighbouring keys in a word, as ldmatrix turns them."""
    starts = (4 * (16 * step * stride + 4 * column) for column in range(first, first + number, 2))
    found = [ldmatrix(b, address, start, is_turned=True) for start in starts]
    return [words[half : half + 2] for words in found for half in (0, 2)]


def _tf32_values(
    b: Any, address: Operand, stride: int, step: int, first: int, number: int
) -> Fragments:
    """Of 8 keys: this lane's two neighbouring ones."""
    pointer = b.inttoptr(address, ir.PointerType(I32, SHARED))
    return [
        [b.load(b.gep(pointer, [I32((8 * step + key) * stride + 8 * column)])) for key in (0, 1)]
        for column in range(first, first + number)
    ]


def _divided(columns: int, has_zeros: int) -> Any:
    """``fragments_divided(made, totals)``; ``has_zeros``: zeros where the total is."""

    def emit(b: Any, made: Operand, totals: Operand) -> Operand:
        by = []
        for total in unpacked(b, totals, LANE_ROWS):
            inverse = b.fdiv(ir.Constant(F32, 1.0), total)
            is_empty = b.fcmp_ordered("==", total, ZERO)
            by.append(b.select(is_empty, ZERO, inverse) if has_zeros else inverse)
        return _times_rows(b, made, columns, by)

    kind = tile_type(4 * columns)
    return define(kind, [kind, tile_type(LANE_ROWS)], emit)


def _rescaled(columns: int) -> Any:
    """``fragments_rescaled(made, factors)``."""
    kind = tile_type(4 * columns)
    return define(
        kind,
        [kind, tile_type(LANE_ROWS)],
        lambda b, made, factors: _times_rows(b, made, columns, unpacked(b, factors, LANE_ROWS)),
    )


def _times_rows(b: Any, made: Operand, columns: int, by: list[Operand]) -> Operand:
    values = unpacked(b, made, 4 * columns)
    multiplied = rounded_once("mul")
    return packed(b, [multiplied(b, FLOAT32, x, by[row_of(at)]) for at, x in enumerate(values)])


# -- warps that share queries ----------------------------------------------------------------------


def _most(across: int, rows: int) -> Any:
    """``fragments_most(kept)``: each row's largest score in all warps that share it; ``kept``: of
    this lane's first row in the first warp, those of other warps ``rows`` apart."""

    def emit(b: Any, kept: Operand) -> Operand:
        found = []
        for row in range(LANE_ROWS):
            most, *others = (_kept(b, kept, warp * rows + 8 * row) for warp in range(across))
            for other in others:
                most = larger(b, most, other)
            found.append(most)
        return packed(b, found)

    return define(tile_type(LANE_ROWS), [POINTER], emit)


def _total(across: int, rows: int) -> Any:
    """``fragments_total(kept, bases)``: each row's sum of weights that count from the bases; the
    warps' sums lie behind their largest scores."""

    def emit(b: Any, kept: Operand, bases: Operand) -> Operand:
        found = []
        for row, base in enumerate(unpacked(b, bases, LANE_ROWS)):
            total: Operand = ZERO
            for warp in range(across):
                most, sum_ = (
                    _kept(b, kept, (warp + part * across) * rows + 8 * row) for part in (0, 1)
                )
                total = fma(b, FLOAT32, sum_, exponential(b, most, base), total)
            found.append(total)
        return packed(b, found)

    return define(tile_type(LANE_ROWS), [POINTER, tile_type(LANE_ROWS)], emit)


def _add_staged(columns: int, stride: int) -> Any:
    """``fragments_added(made, target)``: added to what another warp has staged there."""

    def emit(b: Any, made: Operand, target: Operand) -> None:
        values = unpacked(b, made, 4 * columns)
        for at in range(0, 4 * columns, 2):
            offset = 8 * row_of(at) * stride + 8 * (at // 4)
            pairs = zip(load_vector(b, target, offset, 2), values[at : at + 2], strict=True)
            store_vector(b, b.gep(target, [I64(offset)]), [_add(b, *pair) for pair in pairs])

    return define(types.void, [tile_type(4 * columns), POINTER], emit)


def _kept(b: Any, pointer: Operand, offset: int) -> Operand:
    return b.load(b.gep(pointer, [I64(offset)]))


# -- instructions ----------------------------------------------------------------------------------


def _add(b: Any, x: Operand, y: Operand) -> Operand:
    return rounded_once("add")(b, FLOAT32, x, y)


def _shared_by_row(b: Any, value: Operand, combine: Callable[..., Operand]) -> Operand:
    """The values of a row's four lanes combined, those 2 and 1 apart: the same in all."""
    for apart in (2, 1):
        other = called(b, "llvm.nvvm.shfl.sync.bfly.f32", F32, I32(-1), value, I32(apart), I32(31))
        value = combine(b, value, other)
    return value


_MAKERS: dict[str, Callable[..., Any]] = {
    "bounded": _bounded, "causal": _causal, "raised": _raised, "weights": _weights,
    "totals": _totals, "whole": _whole, "divided": _divided, "rescaled": _rescaled,
    "most": _most, "total": _total, "added": _add_staged,
}  # fmt: skip
FAMILIES = {"fragments": fragments}
