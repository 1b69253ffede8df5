"""The fused attention's parts: a block of 16 x 16 threads holds the scores of some queries and 64
keys, and the queries' outputs.

Thread (y, x) has the rows F y + i of every 16 F, F = min(4, its rows), the keys x + 16 c, and the
columns 4 x + j of every 64. Slices in shared memory: queries and keys by rows, whose groups of four
words are swizzled; weights by rows; values by keys. Names carry the rows of a thread. A number of
each row is in all 16 threads of the row, which are half a warp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from ..attention_tiles import ACROSS, COLUMNS, row_offset
from .define import Operand, called, define, packed, pointer_type, tile_type, unpacked
from .memory import element_at, load_vector
from .scalars import fma, rounded_once, subtract

POINTER = pointer_type(FLOAT32)
F32 = ir.FloatType()
LOWEST, ZERO = ir.Constant(F32, -math.inf), ir.Constant(F32, 0.0)
LOG2_E = ir.Constant(F32, float(np.float32(math.log2(math.e))))


def attention(rest: str) -> Any:
    operation, *numbers = rest.split("_")
    return _MAKERS[operation](*map(int, numbers))


# -- scores ----------------------------------------------------------------------------------------


def _scores(rows: int, depth: int) -> Any:
    """``attention_scores(tile, q, k, i, j)``: tile += q k' over a slice, from this thread's first
    query and key on; i and j swizzle their groups of four words."""

    def emit(b: Any, tile: Operand, q: Operand, k: Operand, i: Operand, j: Operand) -> Operand:
        sums = unpacked(b, tile, rows * COLUMNS)
        for step in range(0, depth, 4):
            left, right = (
                element_at(b, side, b.xor(turn, I32(step))) for side, turn in ((q, i), (k, j))
            )
            keys = [load_vector(b, right, c * ACROSS * depth) for c in range(COLUMNS)]
            for row in range(rows):
                query = load_vector(b, left, row_offset(row, rows) * depth)
                for c, key in enumerate(keys):
                    at = row * COLUMNS + c
                    for x, y in zip(query, key, strict=True):
                        sums[at] = fma(b, FLOAT32, x, y, sums[at])
        return packed(b, sums)

    kind = tile_type(rows * COLUMNS)
    return define(kind, [kind, POINTER, POINTER, types.int32, types.int32], emit)


def _scaled(rows: int) -> Any:
    """``attention_scaled(tile, scale)``."""

    def emit(b: Any, tile: Operand, scale: Operand) -> Operand:
        scores = unpacked(b, tile, rows * COLUMNS)
        return packed(b, [rounded_once("mul")(b, FLOAT32, score, scale) for score in scores])

    kind = tile_type(rows * COLUMNS)
    return define(kind, [kind, types.float32], emit)


def _masked(rows: int, row: int) -> Any:
    """``attention_masked(tile, x, y, z, w)``: with these scores in a row."""

    def emit(b: Any, tile: Operand, *scores: Operand) -> Operand:
        for c, score in enumerate(scores):
            tile = b.insert_value(tile, score, row * COLUMNS + c)
        return tile

    kind = tile_type(rows * COLUMNS)
    return define(kind, [kind, *[types.float32] * COLUMNS], emit)


def _bounded(rows: int) -> Any:
    """``attention_bounded(tile, left)``: -inf where there is no key; ``left``: keys from this
    thread's first one on."""

    def emit(b: Any, tile: Operand, left: Operand) -> Operand:
        inside = [b.icmp_signed("<", I32(ACROSS * c), left) for c in range(COLUMNS)]
        scores = unpacked(b, tile, rows * COLUMNS)
        return packed(b, [b.select(inside[at % COLUMNS], x, LOWEST) for at, x in enumerate(scores)])

    kind = tile_type(rows * COLUMNS)
    return define(kind, [kind, types.int32], emit)


def _causal(rows: int) -> Any:
    """``attention_causal(tile, reach)``: -inf where the key is behind the query; ``reach``: this
    thread's first query's number less its first key's."""

    def emit(b: Any, tile: Operand, reach: Operand) -> Operand:
        scores = unpacked(b, tile, rows * COLUMNS)
        for at, score in enumerate(scores):
            row, c = divmod(at, COLUMNS)
            least = I32(ACROSS * c - row_offset(row, rows))
            scores[at] = b.select(b.icmp_signed(">=", reach, least), score, LOWEST)
        return packed(b, scores)

    kind = tile_type(rows * COLUMNS)
    return define(kind, [kind, types.int32], emit)


# -- weights ---------------------------------------------------------------------------------------


def _lowest(rows: int) -> Any:
    """``attention_lowest()``: -inf for each row."""
    return define(tile_type(rows), [], lambda b: packed(b, [LOWEST] * rows))


def _raised(rows: int) -> Any:
    """``attention_raised(largest, tile)``: each row's largest score so far; a NaN is none."""

    def emit(b: Any, largest: Operand, tile: Operand) -> Operand:
        scores, found = unpacked(b, tile, rows * COLUMNS), unpacked(b, largest, rows)
        for row in range(rows):
            most = scores[row * COLUMNS]
            for c in range(1, COLUMNS):
                most = larger(b, most, scores[row * COLUMNS + c])
            found[row] = larger(b, found[row], _shared_by_row(b, most, larger))
        return packed(b, found)

    return define(tile_type(rows), [tile_type(rows), tile_type(rows * COLUMNS)], emit)


def _bases(rows: int) -> Any:
    """``attention_bases(largest)``: what exponents count from; 0 where all scores are -inf, so that
    weights are 0 and not NaN as long as other keys may come."""

    def emit(b: Any, largest: Operand) -> Operand:
        return packed(b, [_base(b, value) for value in unpacked(b, largest, rows)])

    return define(tile_type(rows), [tile_type(rows)], emit)


def _base(b: Any, largest: Operand) -> Operand:
    return b.select(b.fcmp_ordered("==", largest, LOWEST), ZERO, largest)


def _factors(rows: int) -> Any:
    """``attention_factors(largest, bases)``: by what sums of weights below the ``largest`` before
    are multiplied, that they count from the bases."""

    def emit(b: Any, largest: Operand, bases: Operand) -> Operand:
        pairs = zip(unpacked(b, largest, rows), unpacked(b, bases, rows), strict=True)
        return packed(b, [exponential(b, x, y) for x, y in pairs])

    return define(tile_type(rows), [tile_type(rows)] * 2, emit)


def _weights(rows: int) -> Any:
    """``attention_weights(tile, bases)``: exp(score - base)."""

    def emit(b: Any, tile: Operand, bases: Operand) -> Operand:
        base, scores = unpacked(b, bases, rows), unpacked(b, tile, rows * COLUMNS)
        return packed(b, [exponential(b, x, base[at // COLUMNS]) for at, x in enumerate(scores)])

    kind = tile_type(rows * COLUMNS)
    return define(kind, [kind, tile_type(rows)], emit)


def _totals(rows: int) -> Any:
    """``attention_totals(totals, factors, tile)``: this thread's sums of each row's weights."""

    def emit(b: Any, totals: Operand, factors: Operand, tile: Operand) -> Operand:
        add, weights = rounded_once("add"), unpacked(b, tile, rows * COLUMNS)
        found = []
        for row, (total, factor) in enumerate(
            zip(unpacked(b, totals, rows), unpacked(b, factors, rows), strict=True)
        ):
            x, y, z, w = weights[row * COLUMNS : (row + 1) * COLUMNS]
            new = add(b, FLOAT32, add(b, FLOAT32, x, y), add(b, FLOAT32, z, w))
            found.append(fma(b, FLOAT32, total, factor, new))
        return packed(b, found)

    kind = tile_type(rows)
    return define(kind, [kind, kind, tile_type(rows * COLUMNS)], emit)


def _keep(rows: int, stride: int) -> Any:
    """``attention_keep(target, tile)``: the weights to shared memory, from this thread's first
    row and key on."""

    def emit(b: Any, target: Operand, tile: Operand) -> Operand:
        for at, weight in enumerate(unpacked(b, tile, rows * COLUMNS)):
            row, c = divmod(at, COLUMNS)
            b.store(weight, b.gep(target, [I64(row_offset(row, rows) * stride + ACROSS * c)]))

    return define(types.void, [POINTER, tile_type(rows * COLUMNS)], emit)


# -- outputs ---------------------------------------------------------------------------------------


def _values(rows: int, stride: int, keys: int, width: int) -> Any:
    """``attention_values(tile, weights, v)``: tile += weights v over so many keys, values ``width``
    words apart; from this thread's first row and column on."""
    columns = width // ACROSS
    access = 2 if rows > 4 else 4  # with many rows, registers are short

    def emit(b: Any, tile: Operand, weights: Operand, v: Operand) -> Operand:
        sums = unpacked(b, tile, rows * columns)
        for first in range(0, keys, access):
            left = [
                load_vector(b, weights, row_offset(row, rows) * stride + first, access)
                for row in range(rows)
            ]
            for key in range(access):
                start = (first + key) * width
                right = [x for f in range(0, width, 64) for x in load_vector(b, v, start + f)]
                for row in range(rows):
                    for j, value in enumerate(right):
                        at = row * columns + j
                        sums[at] = fma(b, FLOAT32, left[row][key], value, sums[at])
        return packed(b, sums)

    kind = tile_type(rows * columns)
    return define(kind, [kind, POINTER, POINTER], emit)


def _rescaled(rows: int, columns: int) -> Any:
    """``attention_rescaled(made, factors, tile)``: made * factor + tile, row by row."""

    def emit(b: Any, made: Operand, factors: Operand, tile: Operand) -> Operand:
        by = unpacked(b, factors, rows)
        pairs = zip(*(unpacked(b, x, rows * columns) for x in (made, tile)), strict=True)
        return packed(
            b, [fma(b, FLOAT32, old, by[at // columns], new) for at, (old, new) in enumerate(pairs)]
        )

    kind = tile_type(rows * columns)
    return define(kind, [kind, tile_type(rows), kind], emit)


def _whole(rows: int) -> Any:
    """``attention_whole(totals)``: each row's sum, the same in all of its threads."""
    add = rounded_once("add")

    def emit(b: Any, totals: Operand) -> Operand:
        return packed(
            b,
            [
                _shared_by_row(b, total, lambda b, x, y: add(b, FLOAT32, x, y))
                for total in unpacked(b, totals, rows)
            ],
        )

    return define(tile_type(rows), [tile_type(rows)], emit)


def _divided(rows: int, columns: int, has_zeros: int) -> Any:
    """``attention_divided(made, totals)``; ``has_zeros``: zeros where the total is."""

    def emit(b: Any, made: Operand, totals: Operand) -> Operand:
        by = []
        for total in unpacked(b, totals, rows):
            inverse = b.fdiv(ir.Constant(F32, 1.0), total)
            is_empty = b.fcmp_ordered("==", total, ZERO)
            by.append(b.select(is_empty, ZERO, inverse) if has_zeros else inverse)
        values = unpacked(b, made, rows * columns)
        return packed(
            b,
            [
                rounded_once("mul")(b, FLOAT32, value, by[at // columns])
                for at, value in enumerate(values)
            ],
        )

    kind = tile_type(rows * columns)
    return define(kind, [kind, tile_type(rows)], emit)


# -- instructions ----------------------------------------------------------------------------------


def larger(b: Any, x: Operand, y: Operand) -> Operand:
    return called(b, "llvm.nvvm.fmax.f", F32, x, y)


def exponential(b: Any, x: Operand, base: Operand) -> Operand:
    """e^(x - base). The difference comes first: its product with log2(e) would overflow for the
    lowest numbers, which masks use. ex2.approx has a relative error of 2^-22 (PTX ISA 8.0, section
    9.7.3.21); denormal results are zero."""
    power = rounded_once("mul")(b, FLOAT32, subtract(b, FLOAT32, x, base), LOG2_E)
    return called(b, "llvm.nvvm.ex2.approx.ftz.f", F32, power)


def _shared_by_row(b: Any, value: Operand, combine: Callable[..., Operand]) -> Operand:
    """The values of a row's 16 threads combined, those 8, 4, 2 and 1 apart: the same in all."""
    for apart in (8, 4, 2, 1):
        other = called(b, "llvm.nvvm.shfl.sync.bfly.f32", F32, I32(-1), value, I32(apart), I32(31))
        value = combine(b, value, other)
    return value


_MAKERS: dict[str, Callable[..., Any]] = {
    "scores": _scores, "scaled": _scaled, "masked": _masked, "bounded": _bounded, "causal": _causal, "lowest": _lowest,
    "raised": _raised, "bases": _bases, "factors": _factors, "weights": _weights, "totals": _totals,
    "keep": _keep, "values": _values, "rescaled": _rescaled, "whole": _whole, "divided": _divided,
}  # fmt: skip
FAMILIES = {"attention": attention}
